"""What a terminal shows of a training while it runs, and that nothing else is changed where there is none."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from made_runs import BLOCK, HOSTILE
from prl import rl, runs
from prl.config import resolve
from prl.grammar import parse
from prl.report.lanes import trace_text
from prl.report.training import TrainingView, sparks
from prl.runs import sample_row
from prl.trainer import progress
from prl.trainer.progress import RunLog

_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def terminal(width: int = 70, height: int = 30, **options: Any) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, **{"_environ": {}} | options
    )


def written(console: Console) -> str:
    file: Any = console.file
    return str(file.getvalue())


def drawing(view: TrainingView) -> list[str]:
    """The lines that the view would draw now."""
    drawn = terminal(view.console.width, view.console.height)
    drawn.print(view._drawing())
    return [line.rstrip() for line in _STYLE.sub("", written(drawn)).splitlines()]


def row(text: str, *, paid: float, correct: float | None = 1.0, **more: Any) -> dict[str, Any]:
    sampled = sample_row("Compute 6 * 7.", "42", parse(text), [1, 2], truncated=False)
    judged = {"correct": correct, "extracted": "42", "verdict": "identical", "group": 0.0}
    return sampled | judged | {"reward_accuracy": paid, "advantage": paid} | more


def test_it_shows_how_far_it_is_and_how_it_goes() -> None:
    view = TrainingView(terminal(), "rl", total=200, done=3, logged=[{"step": 2, "reward": 0.0}, {"loss": 1}])
    view.take(3, {"reward": 0.5, "correct": 0.25, "parallel_ratio": float("nan")}, ())
    view.take(4, {"reward": 1.0, "correct": 1.0}, ())
    view.advance(4, "1:02:03")
    bar, *figures = drawing(view)
    assert re.fullmatch(r"rl .━+ +4/200 0:00:0\d left 1:02:03", bar)
    assert figures == [
        "reward                 1  ▁▅█",
        "right answers       100%  ▃█",
        "parallel ratio         –",
    ]


def test_a_cold_start_has_figures_of_its_own() -> None:
    view = TrainingView(terminal(), "sft", total=10)
    view.take(1, {"loss": 2.5}, ())
    view.take(1, {"eval_format_valid": 0.5}, ())
    assert [line.split()[:3] for line in drawing(view)[1:3]] == [
        ["loss", "2.5", "▁"],
        ["valid", "format", "50%"],
    ]


def test_the_best_response_of_the_last_step_stands_below_as_lanes() -> None:
    view = TrainingView(terminal(), "rl", total=10)
    view.take(1, {}, [row("Final Answer: 42", paid=9.0)])
    best = f"{BLOCK} Final Answer: 42"
    rows = [row("none", paid=0.0, correct=0.0), row("42", paid=1.0), row(best, paid=1.0), row(best, paid=0.5)]
    view.take(2, {}, rows)
    *_, head, problem, first, _, _, _, _, _ = lines = drawing(view)
    assert head.startswith("── step 2 · group 0 · sample 3 of 4 · right: 42 · valid · reward accur")
    assert problem == "Compute 6 * 7."
    assert first.startswith("┌─ Path 1 ─")
    assert "\n".join(lines[-6:]) == trace_text(parse(best), 70)
    view.take(3, {"reward": 1.0}, ())  # metrics alone change nothing
    assert drawing(view)[-6:] == lines[-6:]
    view.take(4, {}, [row("all are wrong", paid=0.0, correct=0.0), row("not judged", paid=0.0, correct=None)])
    assert drawing(view)[-1] == "all are wrong"


@pytest.mark.parametrize("height", [3, 8, 12, 30, 60])
def test_it_fits_the_terminal(height: int) -> None:
    view = TrainingView(terminal(40, height), "rl", total=10)
    view.take(1, {}, [row("a long one\n" * 100, paid=1.0, problem="in two\nlines " * 20)])
    lines = drawing(view)
    assert len(lines) <= max(height, 4)
    assert len(lines) <= 24
    if height >= 8:
        assert re.fullmatch(r"… \d+ lines more", lines[-1])
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_of_a_model_is_shown_and_not_obeyed(text: str) -> None:
    console = terminal()
    view = TrainingView(console, "rl", total=10)
    hostile = f"{text}\x1b]0;title\x07\x1b[2J[bold]x[/bold]"
    view.take(1, {}, [row(f"<Parallel><Path>{hostile}</Path></Parallel>", paid=1.0, extracted=hostile,
                          problem=hostile, verdict=hostile, stage=hostile)])  # fmt: skip
    view.start()
    view.stop()
    drawn = written(console)
    assert "\x1b]0" not in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b[31m" not in drawn
    assert not re.search(
        r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\u2066]", _STYLE.sub("", drawn.replace("\r", ""))
    )
    assert "Path 1" in drawn
    if text == HOSTILE["script"]:
        assert "\ufffd]0;title\ufffd" in "".join(drawing(view))
        assert "[bold]x[/bold]" in re.sub(r"[\s│]+", "", "".join(drawing(view)))


def test_sparks_are_means_of_what_does_not_fit() -> None:
    assert sparks([]) == ""
    assert sparks([5.0]) == "▁"
    assert sparks([1.0, 1.0], share=True) == "██"
    assert sparks([0, 0, 7, 7], columns=2) == "▁█"
    assert len(sparks(list(range(1000)))) == 40


# --- In a trainer


def trained(monkeypatch: pytest.MonkeyPatch, console: Console, folder: Path, resumed_at: int) -> list[str]:
    """The words on the time left, by the view, after each of four steps of 3 s."""
    monkeypatch.setattr(progress, "console", console)
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    with runs.open_run(folder, command="rl", config={"command": "rl", "rl": {}}) as run:
        for step in range(1, resumed_at + 1):
            run.log_metrics(step, {"reward": step / resumed_at})
        log, nothing = RunLog(run, lambda logs: "reward +1.00"), SimpleNamespace()
        clock.now += 500
        state: Any = SimpleNamespace(global_step=resumed_at, max_steps=resumed_at + 20, log_history=[])
        log.on_train_begin(nothing, state, nothing)  # type: ignore[arg-type]
        found = []
        for _ in range(4):
            clock.now += 3
            state.global_step += 1
            run.log_samples(state.global_step, [row(f"{BLOCK} Final Answer: 42", paid=1.0)])
            log.on_step_end(nothing, state, nothing)  # type: ignore[arg-type]
            log.on_log(nothing, state, nothing, {"reward": 1.0})  # type: ignore[arg-type]
            if log.view:
                found.append(drawing(log.view)[0].partition(" left ")[2])
        if log.view:
            assert drawing(log.view)[-1] == "Final Answer: 42"
            assert log.view.curves["reward"].keys() == set(range(1, resumed_at + 5))
        log.on_train_end(nothing, state, nothing)  # type: ignore[arg-type]
        log.close()
    return found


@pytest.mark.parametrize("resumed_at", [0, 980])
def test_the_time_left_is_right_after_a_resumption(
    resumed_at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What came before took none of this process's time, nor is loading a step."""
    console = terminal()
    assert trained(monkeypatch, console, tmp_path / "rl", resumed_at) == ["0:57", "0:54", "0:51", "0:48"]
    lines = _STYLE.sub("", written(console))
    for step, left in zip(range(1, 5), ("0:57", "0:54", "0:51", "0:48"), strict=True):
        total = resumed_at + 20
        assert f"step {resumed_at + step:>5}/{total}  reward +1.00  left {left}" in lines


@pytest.mark.parametrize(
    "console",
    [
        Console(file=io.StringIO(), width=60),
        Console(file=io.StringIO(), width=60, force_terminal=True, _environ={"TERM": "dumb"}),
        Console(file=io.StringIO(), width=60, force_terminal=True, quiet=True, _environ={}),
    ],
    ids=["pipe", "dumb terminal", "another process"],
)
def test_nothing_is_drawn_where_it_could_not_be_seen(
    console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert trained(monkeypatch, console, tmp_path / "rl", 0) == []
    lines = [f"step     {step}/20  reward +1.00  left 0:{60 - 3 * step}\n" for step in range(1, 5)]
    assert written(console) == ("" if console.quiet else "".join(lines))


def test_a_training_is_seen_in_a_terminal_and_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model, twice: once watched."""
    console = terminal(100, 40)

    def train(name: str) -> list[dict[str, Any]]:
        settings = resolve(
            "rl", recipe="tiny", threads=1, output_dir=str(tmp_path / name), limit=4, max_steps=2,
            per_device_train_batch_size=4, gradient_accumulation_steps=1, num_generations=4,
            max_completion_length=8, rewards=["accuracy"],
        )  # fmt: skip
        rl.run(settings)
        return runs.read_samples(tmp_path / name).to_pylist()

    plain = train("plain")
    with monkeypatch.context() as watched:
        watched.setattr(progress, "console", console)
        assert train("watched") == plain
    drawn = _STYLE.sub("", written(console))
    assert "2/2" in drawn
    assert "right answers" in drawn
    assert re.search(r"── step [12] · group 0 · sample \d of 4 · wrong: ", drawn)
    assert "\x1b[?25h" in written(console)  # the cursor is back
