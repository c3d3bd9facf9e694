"""What a person sees of a training: the time that is left."""

from types import SimpleNamespace
from typing import Any

import pytest

from prl import progress
from prl.progress import RunLog


@pytest.mark.parametrize("resumed_at", [0, 980])
def test_the_time_left_is_what_the_steps_of_this_process_say(
    resumed_at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 3 s. What came before --resume took none of it, nor is loading a step."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    run: Any = SimpleNamespace(stage="rl", log_metrics=lambda step, logs: None)
    log, nothing = RunLog(run, lambda logs: "loss 1.0"), SimpleNamespace()
    clock.now += 500
    state: Any = SimpleNamespace(global_step=resumed_at, max_steps=resumed_at + 20, log_history=[])
    log.on_train_begin(nothing, state, nothing)  # type: ignore[arg-type]
    for _ in range(4):
        state.global_step += 5
        clock.now += 15
        log.on_log(nothing, state, nothing, {"loss": 1.0})  # type: ignore[arg-type]
    log.on_train_end(nothing, state, nothing)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("left ")[2] for line in lines] == ["0:45", "0:30", "0:15", "0:00"]
