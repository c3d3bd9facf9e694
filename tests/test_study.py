"""The runner of a study: order, failures, interruptions, refusals. Its tasks are small programs here; whether
the words of the real ones are understood is asked of prl's own parser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import prl.study
from prl import config, recipes, runs
from prl.errors import PrlError, RunError, UsageError
from prl.settings import Settings
from prl.settings.arguments import StudyArguments
from prl.study import parts, results, runner, tasks
from prl.study.design import Design, Setup, cold
from prl.study.designs import DESIGNS
from prl.study.paper_mini import PAPER_MINI
from prl.study.plan import TIMED, Asked, Schedule, chosen, cold_starts_of, left, plan, recipe_of, told
from prl.study.sums import SUMS
from prl.study.tasks import Task, execute
from test_report_study import make_study

FAKE = """
import json, os, signal, sys, time
from pathlib import Path
from prl import runs
from prl.runs.checkpoints import seal

here = Path(__file__).parent
command, *words = sys.argv[1:]
given = dict(word[2:].partition("=")[::2] for word in words)
name = given["name"]
deed, _, other = json.loads((here / "deeds.json").read_text()).get(name, "finish").partition(" ")
alive = here / "alive" / name.replace("/", "-")
alive.touch()
call = {"name": name, "how": words[-1], "alive": len(os.listdir(here / "alive"))}
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(call) + "\\n")

def save(step):
    (run.folder / f"checkpoint-{step}").mkdir()
    (run.folder / f"checkpoint-{step}" / "trainer_state.json").write_text('{"global_step": 1}')
    seal(run.folder / f"checkpoint-{step}")

def interrupted(number, frame):
    save(2)
    sys.exit("prl rl: interrupted")

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

if deed == "say":
    print("Traceback: 1\\n\\n" + other + "\\n", flush=True)
    sys.exit(1)
elif deed == "exit":
    sys.exit(int(other))
elif deed == "kill":
    print("step 3", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
resume, overwrite = words[-1] == "--resume", words[-1] == "--overwrite_output_dir"
folder = given["output_dir"]
words = {"resume": resume, "overwrite": overwrite, "by_samples": command == "eval"}
with runs.open_run(folder, command=command, config={}, **words) as run:
    if deed == "hang":
        signal.signal(signal.SIGINT, interrupted)
        if other == "samples":
            run.log_samples(0, [{"problem": "1 + 1"}])
        elif other != "without":
            save(1)
        (here / "hanging").write_text(str(os.getpid()))
        print("ready", flush=True)
        wait_for(here / "go")
    elif deed == "meet":
        (here / f"{name}.here").touch()
        wait_for(here / f"{other}.here")
    run.finish({"checkpoint": run.checkpoint and run.checkpoint.name})
alive.unlink()
"""


class Fakes:
    """Tasks whose processes do what `deeds` says, "finish" if nothing, and note that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "alive").mkdir()
        (folder / "fake.py").write_text(FAKE)
        self.launcher = (sys.executable, str(folder / "fake.py"))
        self.now_do({})

    def now_do(self, deeds: dict[str, str]) -> None:
        (self.folder / "deeds.json").write_text(json.dumps(deeds))

    def task(self, name: str, command: str = "rl", needs: tuple[str, ...] = ()) -> Task:
        run = self.folder / "study" / name
        return Task(name, (command, f"--output_dir={run}", f"--name={name}"), run, needs)

    def execute(self, tasks: list[Task], jobs: int = 1) -> dict[str, str]:
        return execute(tasks, self.folder / "logs", jobs=jobs, launcher=self.launcher)

    def start(self, task: Task) -> subprocess.Popen[str]:
        """The process of a task that an earlier study left; it has written what it does first."""
        process = subprocess.Popen(
            [*self.launcher, *task.argv, "--resume=no"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        return process

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def called(self) -> list[tuple[str, str]]:
        return [(call["name"], call["how"]) for call in self.calls]


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    return Fakes(tmp_path)


def between_polls(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let `act` run each time that the runner has looked after its processes."""

    def sleep(seconds: float) -> None:
        act()
        time.sleep(seconds / 10)

    monkeypatch.setattr(tasks, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))


NEW, AGAIN = "--overwrite_output_dir", "--resume"


# --- running tasks


def test_tasks_run_in_their_order_but_after_what_they_need(fakes: Fakes) -> None:
    tasks = [
        fakes.task("b", "sft"),
        fakes.task("a", needs=("b",)),
        fakes.task("c", "eval", ("a",)),
        fakes.task("d"),
    ]
    assert fakes.execute(tasks) == {}
    assert fakes.called() == [("b", NEW), ("a", NEW), ("c", NEW), ("d", NEW)]
    assert all(runs.read_summary(task.folder) for task in tasks)


def test_what_is_not_ready_does_not_hold_up_what_is(fakes: Fakes) -> None:
    """`late` needs `slow`, which waits for `other` to begin: they end only if `other` overtakes `late`."""
    fakes.now_do({"slow": "meet other", "other": "meet slow"})
    assert (
        fakes.execute([fakes.task("slow"), fakes.task("late", needs=("slow",)), fakes.task("other")], 2) == {}
    )
    assert fakes.calls[-1]["name"] == "late"


def test_a_need_that_is_no_task_is_not_waited_for(fakes: Fakes) -> None:
    with pytest.raises(ValueError, match="needed, and no task: b"):
        fakes.execute([fakes.task("a", needs=("b",))])


def test_a_task_that_is_to_be_alone_is(fakes: Fakes) -> None:
    """`alone` would have begun beside `first`, and `second` beside `alone`."""
    tasks = [fakes.task("first"), replace(fakes.task("alone", "eval"), alone=True), fakes.task("second")]
    tasks += [fakes.task("third"), replace(fakes.task("last", "eval"), alone=True)]
    assert fakes.execute(tasks, 2) == {}
    assert {call["name"]: call["alive"] for call in fakes.calls if call["name"] in ("alone", "last")} == {
        "alone": 1, "last": 1,
    }  # fmt: skip
    assert len(fakes.calls) == 5
    fakes.execute([replace(fakes.task("one", "eval"), alone=True), fakes.task("other")], 2)
    assert [(call["name"], call["alive"]) for call in fakes.calls[5:]] == [("one", 1), ("other", 1)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_tasks_run_at_once_than_jobs(fakes: Fakes, jobs: int) -> None:
    fakes.execute([fakes.task(str(number)) for number in range(5)], jobs)
    assert {call["alive"] for call in fakes.calls} <= {*range(1, jobs + 1)}


def test_what_is_done_is_not_done_again(fakes: Fakes) -> None:
    first, second = fakes.task("first", "sft"), fakes.task("second", needs=("first",))
    fakes.execute([first])
    fakes.execute([first, second])
    fakes.execute([first, second])
    assert fakes.called() == [("first", NEW), ("second", NEW)]


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("say ModelError: no such model", "ModelError: no such model"),  # the last line that is not empty
        ("say \x1b[31m" + "x" * 10_000, "x" * 300),  # its end
        ("exit 3", "exit status 3, without a word"),
        ("exit 0", "it ended without a DONE"),  # a run that says that all is well, and has nothing to show
        pytest.param(
            "kill",
            "killed by signal 9; its last line: step 3",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no signals"),
        ),
    ],
)
def test_a_failed_task_stops_only_those_that_need_it(fakes: Fakes, deed: str, why: str) -> None:
    fakes.now_do({"bad": deed})
    tasks = [
        fakes.task("bad", "sft"),
        fakes.task("needs-it", needs=("bad",)),
        fakes.task("needs-that", "eval", ("needs-it",)),
        fakes.task("good"),
    ]
    assert fakes.execute(tasks, 2) == {"bad": why}
    assert sorted(fakes.called()) == [("bad", NEW), ("good", NEW)]


def test_a_failed_task_is_tried_again_and_told_by_what_this_attempt_wrote(fakes: Fakes) -> None:
    tasks = [fakes.task("bad"), fakes.task("needs-it", "eval", ("bad",))]
    fakes.now_do({"bad": "say an old error"})
    assert fakes.execute(tasks) == {"bad": "an old error"}
    fakes.now_do({"bad": "exit 1"})
    assert fakes.execute(tasks) == {"bad": "exit status 1, without a word"}
    fakes.now_do({})
    assert fakes.execute(tasks) == {}
    assert [name for name, _ in fakes.called()] == ["bad", "bad", "bad", "needs-it"]
    assert "an old error" in (fakes.folder / "logs" / "bad.log").read_text()


def test_the_estimate_of_what_is_left(fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.execute([fakes.task("a/1"), fakes.task("a/2")])
    start, first, second = capsys.readouterr().err.splitlines()
    assert start == f"2 of 2 tasks to do, 1 at once; logs: {fakes.folder / 'logs'}"
    assert first.split() == ["1/2", "a/1", "0.0", "min,", "about", "0.0", "min", "left"]
    assert second.split() == ["2/2", "a/2", "0.0", "min"]
    assert (fakes.folder / "logs" / "a-1.log").is_file()


# --- interruptions


@pytest.mark.parametrize(
    ("command", "saved", "how"),
    [
        ("rl", "with", AGAIN),
        ("sft", "with", AGAIN),
        ("rl", "without", NEW),  # nothing to go on from
        ("eval", "samples", AGAIN),
        ("eval", "without", NEW),
    ],
)
def test_a_killed_task_goes_on_from_what_it_saved(fakes: Fakes, command: str, saved: str, how: str) -> None:
    task = fakes.task("x", command)
    fakes.now_do({"x": f"hang {saved}"})
    process = fakes.start(task)
    process.kill()
    process.wait()
    fakes.now_do({})
    assert fakes.execute([task]) == {}
    assert fakes.called()[1:] == [("x", how)]
    summary = runs.read_summary(task.folder)
    assert summary is not None
    assert summary["checkpoint"] == ("checkpoint-1" if (saved, how) == ("with", AGAIN) else None)


def test_a_task_that_outlived_its_study_is_waited_for(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    task, after = fakes.task("x"), fakes.task("y", "eval", ("x",))
    fakes.now_do({"x": "hang with"})
    process = fakes.start(task)
    between_polls(monkeypatch, (fakes.folder / "go").touch)
    assert fakes.execute([task, after]) == {}
    assert process.wait() == 0
    assert [name for name, _ in fakes.called()] == ["x", "y"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no os.kill with SIGINT")
@pytest.mark.parametrize("ended_by", ["Ctrl-C", "SIGTERM"])
def test_an_interrupted_study_lets_its_tasks_save_and_goes_on(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    def interrupt() -> None:
        if not (fakes.folder / "hanging").exists():
            return
        if ended_by == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        else:  # a terminal sends it to both
            os.kill(int((fakes.folder / "hanging").read_text()), signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGTERM)
    fakes.now_do({"x": "hang with"})
    tasks = [fakes.task("x"), fakes.task("y")]
    with monkeypatch.context() as patch:
        between_polls(patch, interrupt)
        with pytest.raises(PrlError, match=r"^interrupted; .* the same command goes on from there$"):
            fakes.execute(tasks)
    assert signal.getsignal(signal.SIGTERM) is before
    assert runs.last_checkpoint(tasks[0].folder) == tasks[0].folder / "checkpoint-2"
    fakes.now_do({})
    assert fakes.execute(tasks) == {}
    assert fakes.called() == [("x", NEW), ("x", AGAIN), ("y", NEW)]


def test_an_error_of_the_runner_leaves_no_process(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        if (fakes.folder / "hanging").exists():
            raise OSError("disk full")

    fakes.now_do({"x": "hang with"})
    between_polls(monkeypatch, fail)
    with pytest.raises(OSError, match="disk full"):
        fakes.execute([fakes.task("x")])
    with runs.open_run(fakes.task("x").folder, command="rl", config={}, resume=True) as run:
        assert run.checkpoint is not None  # nobody else writes here


# --- what the tasks are

FEW: dict[str, Any] = {"seeds": 2, "problems": 2, "samples": 2, "steps": 4, "switch": 3}
SCHEDULES = {arm: Schedule(30, 15) for arm in ("uniform", "adaptive")}


def planned(
    folder: Path,
    *arms: str,
    design: Design = SUMS,
    schedules: dict[str, Schedule] = SCHEDULES,
    part: str | None = None,
    **given: Any,
) -> dict[str, Task]:
    asked = Asked(**{"seeds": 1, "recipe": design.recipe_of(None), "ships": False, **given})
    tasks = plan(design, folder, chosen(design, arms or None, part), asked, schedules)
    return {task.name: task for task in tasks}


def flags(task: Task) -> dict[str, str]:
    return dict(word[2:].split("=", 1) for word in task.argv[1:])


@pytest.mark.parametrize("design", DESIGNS.values(), ids=[*DESIGNS])
def test_a_design_names_what_it_has(design: Design) -> None:
    """Cold starts, parts, claims, tables and figures; and each arm is in one part."""
    assert {arm.cold_start for arm in design.arms.values()} - {None} <= {*design.cold_starts}
    assert design.name in recipes.OVERLAYS
    in_parts = [arm for part in design.parts.values() for arm in part.arms]
    assert sorted(in_parts) == sorted(design.arms)
    made = {name for part in design.parts.values() for name in cold_starts_of(design, part)}
    assert made == {*design.cold_starts}
    evaluated = {*design.arms, *map(cold, design.cold_starts), *design.bases}
    assert {name for part in design.parts.values() for name in part.bases} == {*design.bases}
    assert {arm for claim in design.claims for arm in claim.arms} <= evaluated
    in_tables = [name for table in design.tables for name in (*table.names, table.baseline)]
    assert {*in_tables} | {*design.level_arms} == evaluated
    assert {name for names in design.frontiers.values() for name in names} <= evaluated
    drawn = {arm for panel in (*design.panels.values(), design.scaffold_panel) for arm in panel}
    assert drawn | {*design.paper, *design.reward_arms, *design.level_arms} <= {*design.arms}


def test_the_help_names_the_parts() -> None:
    (part,) = (each for each in fields(StudyArguments) if each.name == "part")
    said = "; of ".join(f"{name}: {', '.join(design.parts)}" for name, design in DESIGNS.items())
    assert said in part.metadata["help"]


def test_the_arms_of_sums_are_overlays_and_share_their_cold_starts() -> None:
    assert {*SUMS.arms} <= {*recipes.ARMS}
    for name, arm in SUMS.arms.items():
        assert arm.setup.overlays == name
        if arm.cold_start:
            ours, theirs = (
                config.resolve("sft", recipe=f"tiny+sums+{overlay}", threads=1).as_dict()["sft"]
                for overlay in (name, SUMS.cold_starts[arm.cold_start].overlays)
            )
            assert ours == theirs


def test_arms_begin_with_a_cold_start_that_was_told_the_same() -> None:
    """On the model that ships: what an arm's setup says of SFT is what its cold start was made by."""
    for name, arm in PAPER_MINI.arms.items():
        if arm.cold_start:
            asked = Asked(1, PAPER_MINI.recipe_of(None))
            ours, theirs = (
                told(PAPER_MINI, setup, asked).get("sft", {})
                for setup in (arm.setup, PAPER_MINI.cold_starts[arm.cold_start])
            )
            assert ours == theirs, name


def test_an_arm_that_asks_of_one_setting_differs_in_that_alone() -> None:
    """On the model that ships: beside the arm that a claim holds it against."""
    asked = Asked(1, PAPER_MINI.recipe_of(None))
    for name, other, differs in (
        ("judged", "structured-accuracy", {"wrong_paths": "judged"}),
        ("taught-judged", "taught-credited", {"wrong_paths": "judged"}),
        ("taught-credited", "taught-accuracy", {}),
        ("numbered-high-rate", "numbered", {"learning_rate": 5e-4, "live_rate": False}),
        ("numbered-high-live-rate", "numbered", {"learning_rate": 5e-4}),
    ):
        ours, theirs = (_resolved(PAPER_MINI.arms[arm].setup, asked) for arm in (name, other))
        starts = [PAPER_MINI.cold_starts[PAPER_MINI.arms[arm].cold_start or ""] for arm in (name, other)]
        assert starts[0] == starts[1]
        assert {key: value for key, value in ours.items() if theirs[key] != value} == differs


def _resolved(setup: Setup, asked: Asked) -> dict[str, Any]:
    """What RL is told, from the recipe and beyond it."""
    given = told(PAPER_MINI, setup, asked).get("rl", {})
    resolved = config.resolve("rl", recipe=recipe_of(setup, asked), threads=1, **given).as_dict()
    return {key: value for key, value in resolved.items() if key != "rl"} | resolved["rl"]


def test_the_claim_on_early_accuracy_names_the_share_of_the_steps() -> None:
    (early,) = (claim for claim in SUMS.claims if claim.quantity == "early_accuracy")
    assert {SUMS.arms[arm].early_percent for arm in early.arms} == {70}
    assert "in 70 % of the steps" in early.text


def test_the_order_of_a_study(tmp_path: Path) -> None:
    assert [*planned(tmp_path, "sequential", "causal", "uniform", seeds=2)] == [
        *(
            name.format(seed)
            for seed in (0, 1)
            for name in (
                "cold-start/causal/seed-{}",
                "cold-start/structured/seed-{}",
                "arms/sequential/seed-{}/rl",
                "arms/causal/seed-{}/rl",
                "arms/uniform/seed-{}/rl",
                "arms/sequential/seed-{}/eval",
                "arms/causal/seed-{}/eval",
                "arms/uniform/seed-{}/eval",
                "arms/uniform/seed-{}/eval-21",
                "cold-start/causal/seed-{}-eval",
                "cold-start/structured/seed-{}-eval",
                "base/seed-{}-eval",
            )
        ),
    ]


@pytest.mark.parametrize(("fewer", "more"), [(3, 5), (5, 10)])
def test_a_part_can_be_run_in_turns(tmp_path: Path, fewer: int, more: int) -> None:
    """The tasks of fewer seeds are the first of those of more, told the same."""
    first, then = (
        [*planned(tmp_path, design=PAPER_MINI, part="scaffold", ships=True, seeds=seeds).values()]
        for seeds in (fewer, more)
    )
    assert then[: len(first)] == first
    assert len(then) * fewer == len(first) * more


def test_a_whole_study(tmp_path: Path) -> None:
    tasks = planned(tmp_path, seeds=3)
    # An RL run and an evaluation an arm, two early ones; four cold starts, evaluated as the base is.
    assert len(tasks) == 3 * (2 * 12 + 2 + 2 * 4 + 1)
    seen: set[str] = set()
    for name, task in tasks.items():
        assert {*task.needs} <= seen
        assert task.folder == tmp_path / name
        assert f"/seed-{flags(task)['seed']}" in name
        seen.add(name)


def test_each_task_begins_with_what_the_one_before_it_wrote(tmp_path: Path) -> None:
    tasks = planned(tmp_path, "sequential", "scaffold", "plain-prompt", "adaptive", model="base")
    recipe = "tiny+sums+"
    expected = {
        "cold-start/structured/seed-0": ("structured-accuracy", "base"),
        "cold-start/causal-plain-prompt/seed-0": ("plain-prompt", "base"),
        "arms/sequential/seed-0/rl": ("sequential", "base"),
        "arms/scaffold/seed-0/rl": ("scaffold", tmp_path / "cold-start/structured/seed-0"),
        "arms/plain-prompt/seed-0/rl": ("plain-prompt", tmp_path / "cold-start/causal-plain-prompt/seed-0"),
        "arms/scaffold/seed-0/eval": ("scaffold", tmp_path / "arms/scaffold/seed-0/rl"),
        "arms/adaptive/seed-0/eval-21": ("adaptive", tmp_path / "arms/adaptive/seed-0/rl/checkpoint-21"),
        "cold-start/structured/seed-0-eval": (
            "structured-accuracy",
            tmp_path / "cold-start/structured/seed-0",
        ),
        "base/seed-0-eval": ("sequential", "base"),
    }
    for name, (arm, model) in expected.items():
        given = flags(tasks[name])
        assert (given["recipe"], given["model_name_or_path"]) == (recipe + arm, str(model)), name
    assert "model_name_or_path" not in flags(planned(tmp_path, "sequential")["base/seed-0-eval"])


PARTS = [(design, part) for design in DESIGNS.values() for part in design.parts]


@pytest.mark.parametrize(("design", "part"), PARTS, ids=lambda each: getattr(each, "name", each))
def test_prl_understands_every_task(tmp_path: Path, design: Design, part: str) -> None:
    for task in planned(tmp_path, design=design, part=part, quick=True, threads=1).values():
        settings = config.parse(task.argv[0], task.argv[1:])
        assert settings.output_dir == str(task.folder)
        assert settings.arguments.threads == "1"
        if task.alone:
            assert settings.arguments.timed
            assert (settings.arguments.samples, settings.arguments.limit) == (0, 8)
        elif task.argv[0] == "eval":
            assert (settings.arguments.greedy, settings.arguments.limit) == (design.greedy, 8)
        else:
            assert settings.trainer.max_steps == design.quick[task.argv[0]]["max_steps"]
        if design is SUMS and task.argv[0] == "sft":
            structured = "/structured/" in task.name
            assert settings.arguments.attention == ("structured" if structured else "causal")


def test_timed_evaluations_come_last_and_alone(tmp_path: Path) -> None:
    tasks = [*planned(tmp_path, design=PAPER_MINI, part="latency", ships=True, seeds=2).values()]
    last = [task for task in tasks if task.alone]
    assert tasks[-12:] == last
    assert [task.name for task in last] == [
        f"arms/{arm}/seed-{seed}/{timing}"
        for timing in ("timed-1", "timed-2", "timed-3")
        for seed in (0, 1)
        for arm in ("sequential", "numbered")
    ], "all arms before any is timed again"
    given = flags(last[0])
    assert {name: given[name] for name in TIMED} == {name: str(value) for name, value in TIMED.items()}


def test_sizes_hold_on_the_model_that_ships_alone(tmp_path: Path) -> None:
    for ships, steps in ((True, "120"), (False, None)):
        tasks = planned(tmp_path, design=PAPER_MINI, part="widths", ships=ships)
        given = flags(tasks["cold-start/two/seed-0"])
        assert (given.get("max_steps"), given["paths"], given["dataset_split"]) == (steps, "2", "coldstart-2")


def test_the_problems_of_paper_mini_come_with_any_recipe() -> None:
    assert PAPER_MINI.recipe_of("8gb") == "8gb+paper-mini"
    assert PAPER_MINI.recipe_of("8gb+paper-mini") == "8gb+paper-mini"
    assert (SUMS.recipe_of(None), SUMS.recipe_of("tiny"), SUMS.recipe_of("8gb")) == (
        "tiny+sums", "tiny+sums", "8gb",
    )  # fmt: skip


@given(steps=st.integers(1, 500), save_steps=st.integers(1, 500))
def test_the_early_checkpoint_is_written_and_still_there_at_the_end(steps: int, save_steps: int) -> None:
    tasks = planned(Path("study"), "adaptive", schedules={"adaptive": Schedule(steps, save_steps)})
    saving = flags(tasks["arms/adaptive/seed-0/rl"])
    every, limit = int(saving["save_steps"]), int(saving["save_total_limit"])
    kept = sorted({*range(every, steps + 1, every), steps})[-limit:]
    (early,) = [int(name.rpartition("-")[2]) for name in tasks if "/eval-" in name]
    assert early in kept
    assert 10 * early <= max(10, 7 * steps) < 10 * (early + 1)
    assert every <= save_steps


# --- the command


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A study whose tasks and report are not run; `failed` is what they leave."""
    seen = SimpleNamespace(tasks=[], jobs=0, failed={}, reported=[])

    def fake_execute(tasks: list[Task], logs: Path, *, jobs: int) -> dict[str, str]:
        seen.tasks, seen.jobs = tasks, jobs
        return seen.failed

    def write(folder: Path) -> Path:
        seen.reported.append(folder)
        return folder / "study.md"

    module = ModuleType("prl.study.report")
    module.write = write  # type: ignore[attr-defined]
    module.write_merged = lambda folder: folder / "merged.md"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "prl.study.report", module)
    monkeypatch.setattr(prl.study, "report", module, raising=False)
    monkeypatch.setattr(runner, "execute", fake_execute)
    return seen


def ask(folder: Path, **given: Any) -> Path:
    given = {"study": "sums", "arms": ["causal"], "seeds": 1, "recipe": "tiny", "jobs": "2", **given}
    return runner.run(Settings("study", StudyArguments(output_dir=str(folder), **given)))


def test_what_was_asked_is_remembered_and_reported(executed: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "study"
    assert ask(folder, arms=["adaptive", "causal"], seeds=2, quick=True) == folder / "study.md"
    stored = yaml.safe_load((folder / "study.yaml").read_text())
    assert stored.pop("environment")["argv"] == sys.argv
    assert stored == {
        "study": "sums",
        "arms": ["causal", "adaptive"],
        "seeds": 2,
        "recipe": "tiny+sums",
        "model_name_or_path": None,
        "quick": True,
        "part": None,
        "bases": ["base"],
    }
    assert (executed.reported, executed.jobs) == ([folder], 2)
    names = [task.name for task in executed.tasks]
    assert "arms/adaptive/seed-1/eval-2" in names  # 70 % of the 4 steps of a quick run
    assert {flags(task)["threads"] for task in executed.tasks} == {"1"}  # two at once share the cores
    # The same again, in other words: it goes on.
    ask(folder, arms=["causal", "adaptive"], seeds=2, quick=True, recipe=None, jobs="1")
    assert [task.name for task in executed.tasks] == names
    assert "threads" not in flags(executed.tasks[0])


@pytest.mark.parametrize("arm", ["scaffold", "parallel-prompt"])
def test_quick_is_quick_whatever_the_arm(executed: SimpleNamespace, tmp_path: Path, arm: str) -> None:
    """Also where a cold start or the base go by the recipe of another arm."""
    ask(tmp_path, arms=[arm], quick=True)
    for task in executed.tasks:
        quick = SUMS.quick[task.argv[0]]
        assert {key: flags(task)[key] for key in quick} == {key: str(value) for key, value in quick.items()}


def test_an_arm_of_its_own_size(executed: SimpleNamespace, tmp_path: Path) -> None:
    ask(tmp_path / "shipped", arms=["causal", "plain-prompt"])
    prompted = SUMS.arms["plain-prompt"].setup.sizes
    steps = {task.name: flags(task).get("max_steps") for task in executed.tasks}
    assert {name: count for name, count in steps.items() if count} == {
        "cold-start/causal-plain-prompt/seed-0": str(prompted["sft"]["max_steps"]),
        "arms/plain-prompt/seed-0/rl": str(prompted["rl"]["max_steps"]),
    }
    recipe = tmp_path / "mine.yaml"  # another model: as its recipe says
    recipe.write_text("model_name_or_path: tiny\nsft: {max_steps: 1}\nrl: {max_steps: 7}\n")
    ask(tmp_path / "mine", arms=["plain-prompt"], recipe=str(recipe))
    assert not any("max_steps" in flags(task) for task in executed.tasks)


def test_whose_code_runs_and_which_file_is_a_recipe_is_said_each_time(
    executed: SimpleNamespace, tmp_path: Path
) -> None:
    """study.yaml may come from anyone, so a recipe that does not ship is not taken from there."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model_name_or_path: tiny\nsft: {max_steps: 1}\nrl: {max_steps: 7}\n")
    ask(tmp_path / "mine", arms=["plain-prompt"], recipe=str(recipe), trust_remote_code=True)
    assert all(task.argv[-1] == "--trust_remote_code" for task in executed.tasks)
    with pytest.raises(RunError) as error:
        ask(tmp_path / "mine", arms=["plain-prompt"], recipe=None)
    assert str(error.value) == (
        f"{tmp_path / 'mine'} is a study with a recipe of its own: pass --recipe {str(recipe)!r} to go on"
    )
    ask(tmp_path / "mine", arms=["plain-prompt"], recipe=str(recipe))
    assert not any("--trust_remote_code" in task.argv for task in executed.tasks)


def test_jobs_follow_the_machine(executed: SimpleNamespace, tmp_path: Path) -> None:
    ask(tmp_path, jobs="auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert executed.jobs == cores  # the recipe of the model that ships is for a CPU
    assert runner._jobs("auto", "cuda") == 1


def test_failed_tasks_are_named_at_the_end(executed: SimpleNamespace, tmp_path: Path) -> None:
    executed.failed = {"cold-start/causal/seed-0": "prl sft: no space left"}
    with pytest.raises(RunError) as error:
        ask(tmp_path)
    assert str(error.value).splitlines() == [
        # Of 5, none of which was run here: the RL run, and three evaluations.
        "1 of 5 tasks failed, 4 that need them were not run; the same command tries them again",
        "  cold-start/causal/seed-0: prl sft: no space left",
    ]
    assert error.value.exit_status == 1
    assert executed.reported == [tmp_path]  # of what there is


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"seeds": 1}, "seeds 2, not 1"),
        ({"arms": ["scaffold"]}, "arms causal, not scaffold"),
        ({"recipe": "tiny+scaffold"}, "recipe tiny+sums, not tiny+scaffold"),
        ({"model_name_or_path": "tiny"}, "model_name_or_path None, not tiny"),
        ({"quick": True, "seeds": 1}, "seeds 2, not 1; quick False, not True"),
    ],
)
def test_a_folder_holds_one_study(
    executed: SimpleNamespace, tmp_path: Path, other: dict[str, Any], difference: str
) -> None:
    ask(tmp_path, seeds=2)
    executed.tasks = []
    with pytest.raises(RunError) as error:
        ask(tmp_path, **{"seeds": 2, **other})
    advice = "ask for the same (--seeds: as many or more), or choose another --output_dir"
    assert str(error.value) == f"{tmp_path} is a study with {difference}: {advice}"
    assert executed.tasks == []


def test_a_study_goes_on_from_its_measured_file_alone(
    executed: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = results.read(make_study(tmp_path / "elsewhere", ("sequential", "causal"), **FEW))
    study.settings["recipe"] = "tiny+sums"
    del study.evaluations["sequential"][1]
    folder = tmp_path / "here"
    folder.mkdir()
    parts.save(study).rename(folder / parts.FILE)
    settings: dict[str, Any] = {"arms": ["sequential", "causal"], "seeds": 2}
    with pytest.raises(RunError, match="is a study with seeds 2, not 1"):
        ask(folder, **settings | {"seeds": 1})
    assert [path.name for path in folder.glob("[!.]*")] == [parts.FILE], "it still goes on from there"
    ask(folder, **settings)
    names = [task.name for task in executed.tasks]
    assert names == ["arms/sequential/seed-1/rl", "arms/sequential/seed-1/eval"]
    assert "12 of 14 tasks were measured elsewhere" in capsys.readouterr().err
    assert sorted(path.name for path in folder.glob("[!.]*")) == [parts.EARLIER, "study.yaml"]
    ask(folder, **settings)
    assert [task.name for task in executed.tasks] == names, "it goes on once more"
    capsys.readouterr()
    ask(folder, **settings | {"seeds": 3})
    more = [task.name for task in executed.tasks]
    assert {name for name in more if "seed-2" not in name} == {*names}, "the first seeds stay as they are"
    assert "12 of 21 tasks were measured elsewhere" in capsys.readouterr().err
    assert yaml.safe_load((folder / "study.yaml").read_text())["seeds"] == 3
    with pytest.raises(RunError, match="is a study with seeds 3, not 2"):
        ask(folder, **settings)


def test_what_is_left_comes_after_what_it_needs(fakes: Fakes) -> None:
    start, rl, score = (
        fakes.task("start"),
        fakes.task("rl", needs=("start",)),
        fakes.task("eval", needs=("rl",)),
    )
    tasks = [start, rl, score, fakes.task("start-eval", needs=("start",))]
    assert left(tasks, {"start", "start-eval"}) == [start, rl, score]
    assert left(tasks, {"start", "start-eval", "rl", "eval"}) == []
    assert fakes.execute([start, rl]) == {}
    shutil.rmtree(start.folder)
    assert left(tasks, {"start", "start-eval"}) == [replace(rl, needs=()), score], "no start for what is done"


@pytest.mark.parametrize("name", ["notes.txt", "rl"])
def test_a_folder_of_something_else_is_left_alone(
    executed: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=rf"is not empty and no study \({name}\): choose another --output_dir"):
        ask(tmp_path)
    assert not (tmp_path / "study.yaml").exists()


@pytest.mark.parametrize("content", ["[1, 2", "just text", "- a", b"\xff\xfe\x00"])
def test_a_study_file_that_is_none(executed: SimpleNamespace, tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        RunError, match="cannot be read as the settings of a study: choose another --output_dir"
    ):
        ask(tmp_path)


def test_two_studies_do_not_share_a_folder(
    executed: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[RunError] = []

    def ask_again(tasks: list[Task], logs: Path, *, jobs: int) -> dict[str, str]:
        with pytest.raises(RunError) as error:
            ask(tmp_path)
        inner.append(error.value)
        return {}

    monkeypatch.setattr(runner, "execute", ask_again)
    ask(tmp_path)
    (refusal,) = inner
    assert str(refusal).startswith(f"{tmp_path} is in use by another `prl study`: wait for it")
    monkeypatch.setattr(runner, "execute", lambda *given, **named: {})
    ask(tmp_path)  # free again


def test_a_folder_that_cannot_be_written(executed: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: .*\. Choose another --output_dir"):
        ask(tmp_path / "file" / "study")


def test_a_part_runs_its_arms_in_a_folder_of_its_own(executed: SimpleNamespace, tmp_path: Path) -> None:
    assert ask(tmp_path, arms=None, part="prompts") == tmp_path / "merged.md"
    assert executed.reported == [tmp_path / "prompts"]
    settings = yaml.safe_load((tmp_path / "prompts" / "study.yaml").read_text())
    assert settings["arms"] == ["plain-prompt", "parallel-prompt"]
    assert {task.folder.relative_to(tmp_path).parts[0] for task in executed.tasks} == {"prompts"}
    with pytest.raises(UsageError) as error:
        ask(tmp_path, part="prompt")
    assert "unknown part 'prompt'; nearest: prompts" in str(error.value)
    assert "arms and part: a part has its arms" in str(error.value)


def test_all_that_is_wrong_is_said_at_once(executed: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        ask(tmp_path / "x", arms=["causl", "scaffold", "adaptiv"], seeds=0, jobs="many")
    *faults, arms = str(error.value).splitlines()
    assert [fault.strip() for fault in faults] == [
        "unknown arm 'causl'; nearest: causal",
        "unknown arm 'adaptiv'; nearest: adaptive",
        "seeds 0: must be 1 or more",
        "jobs 'many': must be a number from 1, or auto",
    ]
    assert arms.strip() == f"The arms of sums are {', '.join(SUMS.arms)}"
    with pytest.raises(UsageError) as error:
        ask(tmp_path / "x", study="paper", seeds=0)
    assert [line.strip() for line in str(error.value).splitlines()] == [
        "unknown study 'paper'; nearest: paper-mini",
        "seeds 0: must be 1 or more",
        "The studies are paper-mini, sums",
    ]
    assert not (tmp_path / "x").exists()


def test_a_model_that_is_not_there_is_refused_before_anything_runs(
    executed: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="no such folder"):
        ask(tmp_path / "x", model_name_or_path="./nowhere")
    assert not (tmp_path / "x").exists()


def test_a_recipe_without_steps_cannot_be_evaluated_amid_them(
    executed: SimpleNamespace, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model_name_or_path: tiny\nsft: {max_steps: 1}\nrl: {num_train_epochs: 1}\n")
    with pytest.raises(UsageError, match=r"arm adaptive .* its recipe must set rl: max_steps"):
        ask(tmp_path / "x", arms=["adaptive"], recipe=str(recipe))
