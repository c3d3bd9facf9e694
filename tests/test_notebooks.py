"""Notebooks: each runs from top to bottom, and what is kept beside its source was made from that source.

The suite runs them with `PRL_QUICK`, in small; `make notebooks` in full, which is what is kept. What they
tell a reader to see is looked for in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from warm import launcher

REASON = "needs the extra `notebooks`: pip install prl[notebooks]"
jupytext = pytest.importorskip("jupytext", reason=REASON)
nbclient = pytest.importorskip("nbclient", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.py"))]
COLD = {"02_cold_start", "03_reinforcement_learning"}
"""Their kernels import the libraries themselves, which then see that they are in a notebook."""
ABSOLUTE_PATH = re.compile(r"(?<![\w/.:<])/\w[\w.-]*/|\b[A-Za-z]:\\|site-packages")
PICTURE = re.compile(r"base64,[\w+/=]+")  # its letters look like paths


def test_there_are_six_notebooks() -> None:
    assert [source.id[:2] for source in SOURCES] == ["01", "02", "03", "04", "05", "06"]
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {source.id for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.filterwarnings("ignore:Proactor event loop:RuntimeWarning")  # zmq, on Windows
def test_a_notebook_runs_from_top_to_bottom(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))  # nobody's kernels, history or settings
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PRL_QUICK", "1")
    kernel = "python3" if source.stem in COLD else warm_kernel(tmp_path / "jupyter")
    before = {*FOLDER.rglob("*")}
    notebook = jupytext.read(source)
    nbclient.NotebookClient(
        notebook, kernel_name=kernel, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    check_outputs(notebook)
    SHOWS[source.stem](said(notebook))
    assert {*FOLDER.rglob("*")} == before, "it writes where it is run, and nowhere else"


def warm_kernel(data: Path) -> str:
    """Write a kernel that starts warm into Jupyter's folder of data; its name."""
    argv = [*launcher(), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "warm", "language": "python"}
    (data / "kernels" / "warm").mkdir(parents=True)
    (data / "kernels" / "warm" / "kernel.json").write_text(json.dumps(spec))
    return "warm"


@pytest.mark.parametrize("source", SOURCES)
def test_the_kept_notebook_was_made_from_its_source(source: Path) -> None:
    kept = source.with_suffix(".ipynb")
    notebook = jupytext.read(kept)
    assert cells(notebook) == cells(jupytext.read(source)), f"{kept.name} is out of date: make notebooks"
    check_outputs(notebook)
    SHOWS[source.stem](said(notebook))
    assert kept.stat().st_size < 700_000


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("01_parallel_thought", 2),
        ("02_cold_start", 2),
        ("03_reinforcement_learning", 2),
        ("04_rewards_go_wrong", 2),
        ("05_when_does_it_pay", 1),
    ],
)
def test_pictures_and_lanes_are_kept(name: str, pictures: int) -> None:
    shown = [output.get("data", {}) for output in outputs(jupytext.read(FOLDER / f"{name}.ipynb"))]
    assert sum("image/png" in data for data in shown) == pictures
    if name != "05_when_does_it_pay":
        assert any("<b>Path 2</b>" in data.get("text/html", "") for data in shown)


# What a reader is told to see


def shows_that_by_hand_is_what_the_decoder_does(text: str) -> None:
    assert "the same tokens: True" in text
    assert text.count("right\n") == 0, "no exercise is solved by its starter"


def shows_that_the_format_comes(text: str) -> None:
    faultless = [int(count) for count in re.findall(r"(\d+) of 32 responses have a valid block", text)]
    assert faultless[0] == 0
    assert faultless[1] > 0
    assert interval(text, "sampled: ")[0] > 0, "four ways are right more often than the base"


def shows_that_rl_finds_blocks(text: str) -> None:
    assert largest(text, "log-probabilities differ by") < 1e-4
    assert largest(text, "largest difference: ") < 1e-5
    before, after = re.findall(r"with a block +([\d.]+)%", text)
    assert float(after) > float(before)


def shows_a_hacked_reward(text: str) -> None:
    assert interval(text, "sampled: accuracy changed by")[1] < 0
    assert "ALARM: paid rises while accuracy falls" in text


def shows_budgets_and_seeds(text: str) -> None:
    assert "four paths over four votes: " in text
    low, high = interval(text, "over its four votes, 5 seeds:")
    assert 0 < low < high


def shows_what_fits(text: str) -> None:
    assert re.search(r"Qwen/Qwen3-1.7B, recipe 8gb.*: fits", text)
    assert "logits of the merged model are the adapter's" in text


SHOWS: dict[str, Callable[[str], None]] = {
    "01_parallel_thought": shows_that_by_hand_is_what_the_decoder_does,
    "02_cold_start": shows_that_the_format_comes,
    "03_reinforcement_learning": shows_that_rl_finds_blocks,
    "04_rewards_go_wrong": shows_a_hacked_reward,
    "05_when_does_it_pay": shows_budgets_and_seeds,
    "06_your_model_your_gpu": shows_what_fits,
}


def interval(text: str, told: str) -> tuple[float, float]:
    """The ends of the interval that the line beginning with `told` gives."""
    found = re.search(re.escape(told) + r" *-?[\d.]+% +\[(-?[\d.]+)%, (-?[\d.]+)%\]", text)
    assert found, f"no line {told}"
    return float(found[1]), float(found[2])


def largest(text: str, told: str) -> float:
    found = re.search(re.escape(told) + r" *([\d.e+-]+)", text)
    assert found, f"no line {told}"
    return float(found[1])


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def said(notebook: Any) -> str:
    """All that was printed, as one text."""
    return "".join(output.get("text", "") for output in outputs(notebook))


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def check_outputs(notebook: Any) -> None:
    """Every code cell ran, in order, without error, warning or the name of a folder of this machine."""
    ran = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1))
    for output in outputs(notebook):
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output
        texts = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
        for text in (output.get("text", ""), *texts.values()):
            assert not ABSOLUTE_PATH.search(PICTURE.sub("", text)), text
            assert "\x1b" not in text, text


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("adapter: /home/ann/runs/sft/adapter", True),
        ("'/private/var/folders/x'", True),
        (r"saved to C:\Users\ann\runs", True),
        ("lib/python3.12/site-packages/tqdm/auto.py:21", True),
        ("adapter: runs/course/rl/adapter", False),
        ("step 1/3  8/8/8  answers:\n", False),
        ("<td>1</td></tr></table> https://arxiv.org/abs/2509.07980", False),
    ],
)
def test_paths_are_recognised(text: str, is_path: bool) -> None:
    assert bool(ABSOLUTE_PATH.search(text)) == is_path
