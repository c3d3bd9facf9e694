"""Samples of a run in tensorboard and trackio, as these read them back."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.integrations import TensorBoardCallback

from prl import rl
from prl.config import resolve
from prl.grammar import parse, render
from prl.runs import sample_row
from prl.trainer.sample_tables import LONGEST, SHOWN, SampleTables, cells_of, choose, markdown_table

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "![p](http://x/p.png) [a](javascript:alert(1)) <http://x/a>",
    "a | b | c\n| --- |\n# head\n* item\n1. first\n\n```\ncode\n```\n    indented `x` **bold** _em_ ~~~",
    "back\\slash &lt; &#60; \x1b[2J\x07 \u202eright to left",
]


def row(text: str, advantage: float | None = None, **more: Any) -> dict[str, Any]:
    trace = parse(text)
    verdict = SimpleNamespace(
        equal="42" in text, judges=True, reason="equal" if "42" in text else "different"
    )
    paid = (
        {}
        if advantage is None
        else {"advantage": advantage, "reward_accuracy": 1.0 if "42" in text else -1.0}
    )
    return sample_row("6 * 7?", "42", trace, [1], truncated=False, judged=("42", verdict)) | paid | more


STATE: Any = SimpleNamespace(global_step=3, is_world_process_zero=True)
FORKED = render(["6*7 = 42", "7*6 <b>= 42</b>"], "Both give 42.") + "\nFinal Answer: 42"


def test_the_highest_and_the_lowest_advantages_are_shown() -> None:
    rows = [row(str(number), number / 10) for number in (3, 1, 9, 5, 2, 8)]
    assert [each["text"] for each in choose(rows)] == ["9", "8", "2", "1"]
    assert [each["text"] for each in choose(rows[:3])] == ["9", "3", "1"]
    assert choose([row(str(number)) for number in range(9)]) == [row(str(number)) for number in range(SHOWN)]


def test_a_row_says_what_it_was_paid_and_why() -> None:
    assert cells_of(row("It is 41.", -0.70711)) == {
        "problem": "6 * 7?",
        "response": "It is 41.",
        "verdict": "wrong: different",
        "answer": "42",
        "advantage": -0.707,
        "reward_accuracy": -1.0,
    }
    unread = row("41", 0.0) | {"correct": None, "verdict": "unparseable gold"}
    assert cells_of(unread)["verdict"] == "no verdict: unparseable gold"
    assert cells_of(row("x" * (LONGEST + 1_200)))["response"].endswith("x … 1,200 characters more")


@pytest.mark.parametrize("text", HOSTILE)
def test_tensorboard_shows_what_a_model_wrote_as_text(text: str) -> None:
    plugin_util = pytest.importorskip("tensorboard.plugin_util", reason="`make harness` installs tensorboard")
    page = plugin_util.markdown_to_safe_html(markdown_table([{"response": text, "reward": 1.0}]))
    assert set(re.findall(r"</?(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td"} | (
        {"br"} if "\n" in text else set()
    )
    cells = re.findall(r"<td>(.*?)</td>", page, flags=re.DOTALL)
    shown = html.unescape(cells[0].replace("<br>", "\n"))
    harmless = text.replace("\x1b", "\ufffd").replace("\x07", "\ufffd").replace("\u202e", "\ufffd")
    assert [line.strip() for line in shown.split("\n")] == [line.strip() for line in harmless.split("\n")]
    assert cells[1] == "1.0"


def test_tensorboard_gets_a_table_and_lanes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="`make harness` installs tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    tables, writer = SampleTables(), SummaryWriter(str(tmp_path))
    reporting = SimpleNamespace(callbacks=[TensorBoardCallback(writer)])
    tables.watch(SimpleNamespace(callback_handler=reporting, args=SimpleNamespace(report_to=["tensorboard"])))
    tables.show([row("It is 41.", -0.7), row(FORKED, 0.7)], STATE)
    tables.show([row("unseen")], SimpleNamespace(global_step=4, is_world_process_zero=False))
    writer.close()
    texts = texts_of(tmp_path)
    assert {step for events in texts.values() for step, _ in events} == {3}
    ((_, table),) = texts["samples/table"]
    assert (
        table.splitlines()[0] == "| problem | response | verdict | answer | advantage | reward&#95;accuracy |"
    )
    assert table.splitlines()[3].endswith("| It is 41. | wrong: different | 42 | -0.7 | -1.0 |")
    ((_, lanes),) = texts["samples/lanes"]
    assert "    ┌─ Path 1 ─" in lanes
    assert "7*6 <b>= 42</b>" in lanes
    page = pytest.importorskip("tensorboard.plugin_util").markdown_to_safe_html(lanes)
    assert "7*6 &lt;b&gt;= 42&lt;/b&gt;" in page
    assert page.count("<pre>") == 2


def texts_of(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Tag -> step and text of each event in `folder`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


TRACKIO = """
import json, sys
from types import SimpleNamespace
import trackio
from trackio.sqlite_storage import SQLiteStorage
from prl.trainer.sample_tables import SampleTables
rows, state = json.loads(sys.stdin.read())
trackio.init(project="prl", name="run", embed=False)
tables = SampleTables()
handler, args = SimpleNamespace(callbacks=[]), SimpleNamespace(report_to=["trackio"])
tables.watch(SimpleNamespace(callback_handler=handler, args=args))
tables.show(rows, SimpleNamespace(**state))
trackio.finish()
print(json.dumps(SQLiteStorage.get_logs("prl", "run")))
"""


def test_trackio_gets_a_table_and_lanes_as_pages(tmp_path: Path) -> None:
    """In a process of its own, as trackio reads its folder from the environment while it is imported."""
    pytest.importorskip("trackio", reason="`make harness` installs trackio")
    rows = [row(FORKED, 0.7), *(row(text, -0.1) for text in HOSTILE[:2]), row("\x1b[2J", -0.7)]
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO],
        input=json.dumps([rows, vars(STATE)]),
        env=os.environ | {"TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (log,) = json.loads(done.stdout.splitlines()[-1])
    assert log["train/global_step"] == 3
    table = log["samples/table"]["_value"]
    assert [each["response"] for each in table] == [FORKED, *HOSTILE[:2], "\ufffd[2J"]
    assert [each["verdict"] for each in table] == ["right: equal", *["wrong: different"] * 3]
    shown = [log[f"samples/lanes {number}"] for number in range(1, 5)]
    assert shown[0]["caption"] == "6 * 7? – right: equal, advantage +0.70"
    pages = [(tmp_path / "media" / each["file_path"]).read_text(encoding="utf-8") for each in shown]
    assert "Path 2" in pages[0]
    assert "&lt;b&gt;= 42&lt;/b&gt;" in pages[0]
    assert not any("<script" in page or "<img" in page for page in pages)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # TRL's own
def test_a_training_shows_the_samples_of_the_steps_that_it_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="`make harness` installs tensorboard")
    settings = resolve(
        "rl", recipe="tiny", max_steps=2, logging_steps=2, limit=64, max_completion_length=8, threads=1,
        report_to="tensorboard", output_dir=str(tmp_path / "rl"),
    )  # fmt: skip
    rl.run(settings)
    (events,) = (tmp_path / "rl" / "runs").glob("*/events*")
    ((step, table),) = texts_of(events.parent)["samples/table"]
    assert step == 2
    assert len(table.splitlines()) == 2 + SHOWN
