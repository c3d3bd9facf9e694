"""Notebooks: each runs from top to bottom, and what is kept beside its source was made from that source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

REASON = "needs the extra `notebooks`: pip install prl[notebooks]"
jupytext = pytest.importorskip("jupytext", reason=REASON)
nbclient = pytest.importorskip("nbclient", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.py"))]
ABSOLUTE_PATH = re.compile(r"(?<![\w/.:<])/\w[\w.-]*/|\b[A-Za-z]:\\|site-packages")


def test_there_are_notebooks() -> None:
    assert SOURCES
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {source.id for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.filterwarnings("ignore:Proactor event loop:RuntimeWarning")  # zmq, on Windows
def test_a_notebook_runs_from_top_to_bottom(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))  # nobody's kernels, history or settings
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PRL_QUICKSTART_RUNS", "runs")
    before = {*FOLDER.rglob("*")}
    notebook = jupytext.read(source)
    nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    check_outputs(notebook)
    assert (tmp_path / "runs").is_dir()
    assert {*FOLDER.rglob("*")} == before


@pytest.mark.parametrize("source", SOURCES)
def test_the_kept_notebook_was_made_from_its_source(source: Path) -> None:
    kept = source.with_suffix(".ipynb")
    notebook = jupytext.read(kept)
    assert cells(notebook) == cells(jupytext.read(source)), f"{kept.name} is out of date: make notebooks"
    check_outputs(notebook)
    assert kept.stat().st_size < 500_000


def test_the_quickstart_shows_lanes_curves_and_intervals() -> None:
    notebook = jupytext.read(FOLDER / "01_quickstart.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    results = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in results) == 3
    assert any("<b>Path 2</b>" in data.get("text/html", "") for data in results)
    assert "95 % interval" in "".join(output.get("text", "") for output in outputs)
    assert "\x1b" not in "".join(output.get("text", "") for output in outputs)


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def check_outputs(notebook: Any) -> None:
    """Every code cell ran, in order, without error, warning or the name of a folder of this machine."""
    ran = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1))
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        assert output["output_type"] != "error", output
        assert output.get("name") != "stderr", output
        texts = {kind: text for kind, text in output.get("data", {}).items() if kind != "image/png"}
        for text in (output.get("text", ""), *texts.values()):
            assert not ABSOLUTE_PATH.search(text), text


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("adapter: /home/ann/runs/sft/adapter", True),
        ("'/private/var/folders/x'", True),
        (r"saved to C:\Users\ann\runs", True),
        ("lib/python3.12/site-packages/tqdm/auto.py:21", True),
        ("adapter: runs/quickstart/sft/adapter", False),
        ("step 1/3  8/8/8  answers:\n", False),
        ("<td>1</td></tr></table> https://arxiv.org/abs/2509.07980", False),
    ],
)
def test_paths_are_recognised(text: str, is_path: bool) -> None:
    assert bool(ABSOLUTE_PATH.search(text)) == is_path
