"""Anything beside anything: which inputs are one method, what differs, and what the figures are of."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from made_runs import BLOCK, HOSTILE, rl_run
from prl import cli, runs
from prl.config import resolve
from prl.errors import RunError, UsageError
from prl.grammar import parse
from prl.runs.reading import read_environment
from prl.statistics import Estimate, bootstrap, t_quantile
from prl.study import comparison
from prl.study.comparison import compare_all

LOGGED = {"loss": 1.0, "reward": 0.5, "correct": 0.5, "parallel_ratio": 0.25, "frac_reward_zero_std": 0.5}


def trained(folder: Path, command: str = "rl", *, steps: int = 6, seed: int = 0, **settings: Any) -> Path:
    """A finished run whose figures at a step are that step's share of ten."""
    section = {"model_name_or_path": "tiny", "seed": seed, "dataset": "arithmetic:hard"} | settings
    with runs.open_run(folder, command=command, config={"command": command, command: section}) as run:
        for step in range(1, steps + 1):
            run.log_metrics(step, LOGGED | {"reward": step / 10, "loss": 1 / step, "step_time": 2.0})
        run.finish()
    return folder


def evaluated(
    folder: Path,
    right: Sequence[float],
    *,
    model: Path | str = "tiny",
    seed: int = 0,
    asked: str = "Compute {}.",
    **results: Any,
) -> Path:
    """A finished evaluation with one sample a problem."""
    section = {"model_name_or_path": str(model), "seed": seed, "attention": "causal", "dataset": "gsm8k"}
    with runs.open_run(folder, command="eval", config={"command": "eval", "eval": section}) as run:
        rows = [
            runs.sample_row(asked.format(number), "42", parse(BLOCK), [1, 2], truncated=False)
            | {"mode": "sampled", "correct": float(score), "extracted": "42", "verdict": "identical"}
            | {"critical_path": 1.0}
            for number, score in enumerate(right)
        ]
        run.log_samples(0, rows)
        metrics = {"sampled/accuracy": vars(bootstrap(right))}
        written = {
            "dataset": "gsm8k", "problems": len(right), "seed": seed, "samples": 1, "temperature": 1.0,
            "metrics": metrics, "scores": {"sampled": [*right]},
        }  # fmt: skip
        runs.write_json(folder / "results.json", written | results)
        run.finish()
    return folder


def adapter(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    said = {"base_model_name_or_path": "tiny", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    (folder / "adapter_model.safetensors").touch()
    return folder


# --- Which inputs are one method


def test_seeds_are_told_by_their_settings_and_held_to_a_hand_computation(tmp_path: Path) -> None:
    """Five seeds a side, evaluated with one seed: the seed is that of the training run behind."""
    gains = [0.25, 0.5, 0.25, 0.5, 0.75]
    first, second = [], []
    for seed, gain in enumerate(gains):
        for side, name, rate in ((first, "a", 1e-4), (second, "b", 1e-3)):
            model = trained(tmp_path / f"{name}-{seed}/rl", seed=seed, learning_rate=rate)
            won = 4 * gain if side is second else 0
            right = [1.0 if number < won else 0.0 for number in range(4)]
            # Each seed answers problems of its own, so that problems add no variance of their own.
            asked = f"{seed}: {{}}"
            side.append(evaluated(tmp_path / f"{name}-{seed}/eval", right, model=model, asked=asked))
    found = compare_all([*first, *second])
    assert [[*method.seeds] for method in found.methods] == [[*range(5)], [*range(5)]]
    assert found.settings == {"rl.learning_rate": ["0.0001", "0.001"]}
    (figures,) = found.figures.values()
    accuracy = figures.differences[0]
    half = t_quantile(4) * stdev(gains) / math.sqrt(5)
    assert isinstance(accuracy.value, Estimate)
    assert accuracy.value.mean == pytest.approx(fmean(gains))
    assert accuracy.value.low == pytest.approx(fmean(gains) - half)
    assert accuracy.value.high == pytest.approx(fmean(gains) + half)
    assert t_quantile(4) == pytest.approx(2.776, abs=1e-3), "of a table"
    assert accuracy.how == "paired by seed and problem, over 5 seeds (0 1 2 3 4), Student's t"
    assert "of the methods" in figures.remarks[0]
    assert figures.labels == {"A": "A causal, 5 seeds", "B": "B causal, 5 seeds"}
    other_way = compare_all([*second[::-1], *first]).figures["evaluation"].differences[0]
    assert isinstance(other_way.value, Estimate)
    assert other_way.value.mean == pytest.approx(-accuracy.value.mean)
    assert other_way.seeds == (0, 1, 2, 3, 4)


def test_what_changes_no_result_does_not_part_seeds_and_another_checkpoint_does(tmp_path: Path) -> None:
    one = trained(tmp_path / "1", seed=1, threads="1", save_steps=5)
    two = trained(tmp_path / "2", seed=2, threads="4", save_steps=7)
    other = trained(tmp_path / "3", seed=1, temperature=0.5)
    assert [[*m.seeds] for m in compare_all([one, two, other]).methods] == [[1, 2], [1]]
    for run in (one, two):
        adapter(run / "checkpoint-4")
        adapter(run / "adapter")
    models = [one, two / "adapter", one / "checkpoint-4", two / "checkpoint-4"]
    each = [evaluated(tmp_path / f"e{n}", [1, 0], model=model) for n, model in enumerate(models)]
    found = compare_all(each)
    assert [[*method.seeds] for method in found.methods] == [[1, 2], [1, 2]]
    assert found.settings == {}, "what one alone has is not another value"


def test_a_folder_that_was_moved_still_finds_the_run_behind(tmp_path: Path) -> None:
    for name, rate in (("a", 1e-4), ("b", 1e-3)):
        trained(tmp_path / name / "rl", learning_rate=rate)
        evaluated(tmp_path / name / "eval", [1, 0], model=f"runs/elsewhere/{name}/rl")
    found = compare_all([tmp_path / "a/eval", tmp_path / "b/eval"])
    assert found.settings == {"rl.learning_rate": ["0.0001", "0.001"]}
    lost = [
        evaluated(tmp_path / f"lost-{name}-{seed}", [1, 0], model=f"/gone/{name}/seed-{seed}/rl", seed=seed)
        for name in "xy"
        for seed in (0, 1)
    ]
    assert [[*method.seeds] for method in compare_all(lost).methods] == [[0, 1], [0, 1]], "by their names"


def test_what_differs_alike_in_several_stages_is_shown_once_with_code_and_machine(
    tmp_path: Path, capsys: Any
) -> None:
    for name, rank, commit in (("a", 16, "c0ffee"), ("b", 64, "decade")):
        start = trained(tmp_path / name / "sft", "sft", lora_r=rank, max_steps=rank)
        model = trained(tmp_path / name / "rl", lora_r=rank, model_name_or_path=str(start))
        for run in (start, model, evaluated(tmp_path / name / "eval", [1, 0], model=model)):
            said = read_environment(run) | {"git_commit": commit}
            runs.write_json(run / "environment.json", said)
    found = comparison.run(resolve("compare", runs=[str(tmp_path / name / "eval") for name in "ab"]))
    ranks = {"rl.lora_r": ["16", "64"], "sft.lora_r": ["16", "64"]}
    assert found.settings == ranks | {"sft.max_steps": ["16", "64"]}
    assert found.environment == {f"{each}.git_commit": ["c0ffee", "decade"] for each in ("eval", "rl", "sft")}
    shown = capsys.readouterr().err
    assert (shown.count("lora_r"), shown.count("decade")) == (1, 1)
    assert "│ lora_r" in shown
    assert "│ sft.max_steps" in shown


def test_repetitions_stand_alone_until_they_are_told_apart_by_hand(tmp_path: Path) -> None:
    old = [trained(tmp_path / f"old-{seed}", seed=seed) for seed in (0, 1)]
    new = [trained(tmp_path / f"new-{seed}", seed=seed) for seed in (0, 1)]
    found = compare_all([*old, *new])
    assert [len(method.seeds) for method in found.methods] == [1, 1, 1, 1]
    assert "A B C D have the same settings and seeds" in found.remarks[0]
    assert "--against" in found.remarks[0]
    by_hand = compare_all(old, new)
    assert [[*method.seeds] for method in by_hand.methods] == [[0, 1], [0, 1]]
    assert by_hand.remarks == ()
    with pytest.raises(RunError, match="no seed tells them apart"):
        compare_all([old[0], old[0]], new)
    alone = compare_all(old)
    assert [len(method.seeds) for method in alone.methods] == [1, 1]
    assert alone.remarks == ("A B are seeds of one method: by what they differ is chance",)


# --- Evaluations


def test_three_evaluations_are_held_against_the_first(tmp_path: Path, capsys: Any) -> None:
    each = [
        evaluated(tmp_path / name, right, model=name)
        for name, right in {"m1": [0, 0, 0, 1], "m2": [0, 0, 1, 1], "m3": [1, 1, 1, 1]}.items()
    ]
    found = comparison.run(resolve("compare", runs=[*map(str, each)], output=str(tmp_path / "out.json")))
    assert found.settings["eval.model_name_or_path"] == ["m1", "m2", "m3"]
    figures = found.figures["evaluation"]
    assert [(d.second, d.first, d.value.mean, d.how) for d in figures.differences] == [  # type: ignore[union-attr]
        ("B", "A", 0.25, "paired"),
        ("C", "A", 0.75, "paired"),
    ]
    shown = capsys.readouterr().err
    assert blocks_of(shown)["accuracy"]["C causal"][1].startswith("75.0% [")
    assert "B - A, C - A: paired\n" in shown
    assert "single models on these 4 problems" in shown
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["methods"] == {letter: {"0": str(run)} for letter, run in zip("ABC", each, strict=True)}
    difference = written["figures"]["evaluation"]["differences"][1]
    assert (difference["second"], difference["value"]["mean"]) == ("C", 0.75)
    assert written["settings"] == {name: [*cells] for name, cells in found.settings.items()}


def blocks_of(shown: str) -> dict[str, dict[str, list[str]]]:
    """Name of a block -> its rows, by their first cell -> the other cells; of all tables that are shown."""
    found: dict[str, dict[str, list[str]]] = {}
    name = ""
    for line in shown.splitlines():
        if line.startswith("│"):
            first, *cells = line.strip("│").split("│")
            if first.startswith("   "):
                found[name][first.strip()] = [cell.strip() for cell in cells]
            else:
                name = first.strip()
                found[name] = {}
    return found


def test_eight_evaluations_are_read_at_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(comparison.console, "width", 80)
    stages = [[{"name": "easy"}, {"name": "hard", "levels": [number // 4]}] for number in range(8)]
    each = []
    for number in range(8):
        model = trained(tmp_path / f"{number}/rl", stages=stages[number])
        right = [float(place < number) for place in range(8)]
        metrics = {"accuracy": vars(bootstrap(right)), "critical_path": vars(Estimate(1234, 1111, 1357))}
        metrics = {f"sampled/{name}": found for name, found in metrics.items()}
        each.append(str(evaluated(tmp_path / f"{number}/eval", right, model=model, metrics=metrics)))
    comparison.run(resolve("compare", runs=each))
    shown = capsys.readouterr().err
    assert max(len(line) for line in shown.splitlines() if line[:1] in "┏┃│├└") <= 80
    assert "…" not in shown
    found = blocks_of(shown)
    assert [*found] == ["rl.stages", "accuracy", "critical_path"]
    assert found["rl.stages"] == {
        "A B C D": ['[{"name": "easy"}, {"name": "hard", "levels": [0]}]'],
        "E F G H": ['[{"name": "easy"}, {"name": "hard", "levels": [1]}]'],
    }
    assert [*found["accuracy"]] == [f"{letter} causal" for letter in "ABCDEFGH"]
    assert found["accuracy"]["A causal"][1] == ""
    assert found["accuracy"]["H causal"][0].startswith("87.5% [")
    assert found["accuracy"]["H causal"][1].startswith("87.5% [")
    assert found["critical_path"]["B causal"] == ["1234 [1111, 1357]", ""]
    assert "\nB - A, C - A, D - A, E - A, F - A, G - A, H - A: paired\n" in shown
    comparison.run(resolve("compare", runs=each[:2]))
    assert "accuracy, B - A, paired:  12.5%  [" in capsys.readouterr().err, "two stand side by side"


def test_what_stands_side_by_side_is_a_matter_of_the_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    each = [
        str(trained(tmp_path / f"{rate}-{seed}", seed=seed, steps=6 + seed, learning_rate=rate))
        for rate in (1e-3, 1e-4, 1e-5, 1e-6)
        for seed in ((0, 1) if rate < 1e-3 else (0, 1, 2))
    ]
    shown = {}
    for width in (80, 240):
        monkeypatch.setattr(comparison.console, "width", width)
        comparison.run(resolve("compare", runs=each))
        shown[width] = capsys.readouterr().err
        tables = [line for line in shown[width].splitlines() if line[:1] in "┏┃│├└"]
        assert max(map(len, tables)) <= width
        assert "…" not in shown[width]
        how = "not paired (A has seeds 0 1 2, {0} 0 1), Welch's t"
        assert all(f"{letter} - A" in shown[width] and how.format(letter) in shown[width] for letter in "BCD")
    reward = blocks_of(shown[80])["reward"]
    assert reward["A, 3 seeds"] == ["0.55 [0.55, 0.55]", ""]
    assert reward["D, 2 seeds"] == ["0.55 [0.55, 0.55]", "+0 [+0, +0]"]
    assert [*reward] == ["A, 3 seeds", "B, 2 seeds", "C, 2 seeds", "D, 2 seeds"]
    rows = [[cell.strip() for cell in line.split("│")] for line in shown[240].splitlines()]
    assert ["", "reward", *4 * ["0.55 [0.55, 0.55]"], *3 * ["+0 [+0, +0]"], ""] in rows


def test_other_problems_are_not_paired_and_another_data_set_is_refused(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", [1, 0, 1, 0], model="m1")
    other = evaluated(tmp_path / "b", [1, 1, 1, 1], model="m2", asked="Add {}.")
    hotter = evaluated(tmp_path / "c", [1, 1, 1, 0], model="m3", temperature=0.5)
    figures = compare_all([first, other, hotter]).figures["evaluation"]
    hows = [each.how for each in figures.differences]
    assert hows[0].startswith("not paired: gsm8k gave them other problems")
    assert hows[1].startswith("not paired: temperature is 1.0 and 0.5")
    value = figures.differences[0].value
    assert isinstance(value, Estimate)
    assert value.mean == 0.5
    assert value.low < value.mean < value.high
    with pytest.raises(RunError, match="dataset is gsm8k and math; evaluate both with one --dataset"):
        compare_all([first, evaluated(tmp_path / "d", [1, 0], dataset="math")])


def test_a_single_common_seed_is_no_comparison_of_methods(tmp_path: Path) -> None:
    def of(name: str, seeds: Sequence[int]) -> list[Path]:
        return [evaluated(tmp_path / f"{name}{seed}", [1, 0, 0], model=name, seed=seed) for seed in seeds]

    figures = compare_all([*of("a", [0, 1]), *of("b", [1])]).figures["evaluation"]
    assert figures.differences[0].how == "paired, seed 1 alone"
    assert "B - A: without the seeds 0, which one alone has" in figures.remarks
    assert any("single models on the problems of seed 1" in line for line in figures.remarks)
    none = compare_all([*of("c", [0, 1]), *of("d", [2])]).figures["evaluation"]
    assert none.differences == ()
    assert "B - A: no seed in common (A has 0 1, B has 2)" in none.remarks[0]


def test_methods_with_other_seeds_have_welchs_interval(tmp_path: Path, capsys: Any) -> None:
    """Means 0, 0.25, 0.5 against 0.5 and 1: the variances of the means are 1 / 48 and 1 / 16, which makes
    (1 / 12)² / ((1 / 48)² / 2 + (1 / 16)²) = 32 / 19 degrees of freedom."""

    def of(name: str, seeds: Sequence[int], right: Sequence[int], **results: Any) -> list[str]:
        made = []
        for seed, won in zip(seeds, right, strict=True):
            asked = f"{name} {seed}: {{}}"  # its own, so that problems add no variance
            answers = [float(number < won) for number in range(4)]
            folder = tmp_path / f"{name}{seed}"
            made.append(str(evaluated(folder, answers, model=name, seed=seed, asked=asked, **results)))
        return made

    found = comparison.run(
        resolve("compare", runs=[*of("a", [0, 1, 2], [0, 1, 2]), *of("b", [2, 3], [2, 4])])
    )
    accuracy, *_ = found.figures["evaluation"].differences
    assert accuracy.how == "not paired (A has seeds 0 1 2, B 2 3), Welch's t"
    assert accuracy.seeds == (0, 1, 2, 3)
    half = t_quantile(32 / 19) / 12**0.5
    assert isinstance(accuracy.value, Estimate)
    assert (accuracy.value.mean, accuracy.value.low) == pytest.approx((0.5, 0.5 - half))
    assert accuracy.value.high == 1.0, "a share differs by no more"
    assert (
        "accuracy, B - A, not paired (A has seeds 0 1 2, B 2 3), Welch's t:  50.0%" in capsys.readouterr().err
    )
    hotter = compare_all([*of("c", [0, 1], [0, 1]), *of("d", [2, 3], [2, 4], temperature=0.5)])
    assert hotter.figures["evaluation"].differences[0].how == (
        "not paired (A has seeds 0 1, B 2 3; temperature is 1.0 and 0.5; evaluate both with one "
        "--temperature), Welch's t"
    )


def test_seeds_with_other_problems_are_paired_by_seed_alone(tmp_path: Path) -> None:
    def of(name: str, right: Sequence[float], asked: str) -> list[Path]:
        return [
            evaluated(tmp_path / f"{name}{seed}", right, model=name, seed=seed, asked=asked)
            for seed in (0, 1)
        ]

    figures = compare_all([*of("a", [1, 0], "{}"), *of("b", [1, 1], "Not {}")]).figures["evaluation"]
    assert figures.differences[0].how.startswith("paired by seed, not by problem (gsm8k gave them other")
    assert figures.differences[0].value.mean == 0.5  # type: ignore[union-attr]


def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    commands = [
        line.partition("#")[0].split() for line in text.splitlines() if line.startswith("prl compare")
    ]
    assert len(commands) == 3
    for rate, name in enumerate(("a", "b", "old", "new", "mine")):
        for seed, place in ((0, Path("runs", f"{name}-0")), (1, Path("runs", f"{name}-1"))):
            paid = {"learning_rate": 0.1} if name in ("old", "new") else {"learning_rate": 0.1 * (rate + 1)}
            trained(place / "rl", seed=seed, **paid)
            evaluated(place / "eval", [1, 0, rate % 2], model=place / "rl", seed=seed)
    evaluated(Path("runs/mine/eval"), [1, 0, 1], model="runs/mine-0/rl")
    evaluated(Path("runs/mine/all/cold-start"), [1, 0, 0], model="runs/mine-1/rl")
    said = []
    for command in commands:
        assert cli.main(command[1:]) == 0
        said.append(capsys.readouterr().err)
    assert "accuracy, B - A, paired: -33.3%" in said[0]
    assert json.loads(Path("compared.json").read_text())["methods"]["B"] == {"0": "runs/mine/all/cold-start"}
    assert "B runs/b-0/eval, runs/b-1/eval (seeds 0 1)" in said[1]
    assert "paired by seed and problem, over 2 seeds (0 1), Student's t:  33.3%" in said[1]
    assert "B runs/new-0/rl, runs/new-1/rl (seeds 0 1)" in said[2]
    assert "Their settings are the same." in said[2]


# --- Training runs and adapters


def test_runs_are_compared_at_equal_steps(tmp_path: Path, capsys: Any) -> None:
    short, longer = trained(tmp_path / "a", steps=6), trained(tmp_path / "b", steps=9, learning_rate=1e-3)
    found = comparison.run(resolve("compare", runs=[str(short), str(longer)]))
    assert [*found.settings] == ["rl.learning_rate"]
    figures = found.figures["rl"]
    assert figures.title == "rl, steps 5 to 6"
    a, b = figures.values["A"], figures.values["B"]
    assert a["reward"] == b["reward"] == pytest.approx(0.55), "of the same steps"
    assert b["reward, at its own end"] == pytest.approx(0.85), "of its last two steps"
    assert a["best reward"] == pytest.approx(0.55)
    assert a["seconds a step"] == 2.0
    assert {each.figure: each.value for each in figures.differences}["reward"] == pytest.approx(0)
    assert "reward, at its own end" not in {each.figure for each in figures.differences}
    assert "They have other numbers of steps (A 6, B 9): compared at step 6." in figures.remarks
    shown = capsys.readouterr().err
    assert "A difference of single runs is of these runs." in shown
    assert "0.55" in shown


def test_cold_starts_have_their_loss_and_the_pace_of_their_log(tmp_path: Path) -> None:
    each = [trained(tmp_path / name, "sft", steps=steps) for name, steps in (("a", 3), ("b", 30))]
    for run in each:
        lines = [line | {"time": 3.0 * line["step"]} for line in runs.read_metrics(run)]
        lines[1] |= {"time": 100.0, "eval_loss": 0.75}
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{torn")
    figures = compare_all(each).figures["sft"]
    assert figures.title == "sft, step 3"
    assert figures.values["A"]["loss"] == figures.values["B"]["loss"] == pytest.approx(1 / 3)
    assert figures.values["A"]["best held-out loss"] == 0.75
    assert figures.values["B"]["loss, at its own end"] == pytest.approx(1 / 30)
    assert [each.figure for each in figures.differences][:2] == ["loss", "best loss"]


def test_seeds_of_a_training_are_compared_over_seeds(tmp_path: Path) -> None:
    sides = []
    for name, rate, rewards in (("a", 1e-4, ["accuracy"]), ("b", 1e-3, ["format"])):
        for seed, steps in ((0, 6), (1, 6), (2, 6)):
            run = trained(
                tmp_path / f"{name}{seed}", steps=steps, seed=seed, learning_rate=rate, rewards=rewards
            )
            lines = runs.read_metrics(run)
            for line in lines:
                line["correct"] = 0.1 * seed if name == "a" else 0.1 * seed + 0.1 * (seed + 1)
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            sides.append(run)
    figures = compare_all(sides).figures["rl"]
    by_name = {each.figure: each for each in figures.differences}
    found = by_name["share correct"]
    assert isinstance(found.value, Estimate)
    half = t_quantile(2) * 0.1 / math.sqrt(3)
    assert (found.value.mean, found.value.low, found.value.high) == pytest.approx(
        (0.2, 0.2 - half, 0.2 + half)
    )
    assert found.how == "paired by seed, over 3 seeds (0 1 2), Student's t"
    assert "reward" not in by_name
    assert "B - A: they are paid otherwise, so their rewards are other numbers" in figures.remarks


def test_trainings_with_other_seeds_have_welchs_interval(tmp_path: Path, capsys: Any) -> None:
    """Shares right of 0, 0.1, 0.2 against 0.5 and 0.7: 1 / 300 and 1 / 100, 32 / 19 degrees of freedom."""
    sides = []
    for name, rate, right in (("a", 1e-4, {0: 0.0, 1: 0.1, 2: 0.2}), ("b", 1e-3, {2: 0.5, 3: 0.7})):
        for seed, share in right.items():
            run = trained(tmp_path / f"{name}{seed}", seed=seed, learning_rate=rate)
            lines = [line | {"correct": share} for line in runs.read_metrics(run)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            sides.append(str(run))
    figures = comparison.run(resolve("compare", runs=sides)).figures["rl"]
    found = {each.figure: each for each in figures.differences}["share correct"]
    half = t_quantile(32 / 19) * (1 / 75) ** 0.5
    assert isinstance(found.value, Estimate)
    assert (found.value.mean, found.value.low, found.value.high) == pytest.approx((0.5, 0.5 - half, 1.0))
    assert found.how == "not paired (A has seeds 0 1 2, B 2 3), Welch's t"
    assert "B - A: not paired (A has seeds 0 1 2, B 2 3), Welch's t" in capsys.readouterr().err


def test_right_answers_of_two_runs_are_paired_where_their_problems_are_the_same(tmp_path: Path) -> None:
    first = rl_run(tmp_path / "a", 9, right=lambda step: False)
    second = rl_run(tmp_path / "b", 9, right=lambda step: step > 8)
    other = rl_run(tmp_path / "c", 9, right=lambda step: True, problem="Add")
    paired, unpaired = (
        next(each for each in figures.differences if each.figure == "share correct, by problem")
        for figures in (compare_all([first, run]).figures["rl"] for run in (second, other))
    )
    assert paired.how == "paired, as both had the same problems at these steps"
    assert paired.value.mean == pytest.approx(1 / 3), "of steps 7 to 9 the last"  # type: ignore[union-attr]
    assert unpaired.how == "not paired: their problems at these steps differ"
    assert unpaired.value == Estimate(1, 1, 1)


def test_adapters_are_compared_by_their_shape(tmp_path: Path, capsys: Any) -> None:
    first = adapter(tmp_path / "a")
    second = adapter(tmp_path / "b", r=64, target_modules=["v_proj", "q_proj"])
    runs.write_json(second / "prl.json", {"attention": "structured", "path_opening": "number"})
    found = comparison.run(resolve("compare", runs=[str(first), str(second)]))
    assert found.settings == {
        "adapter.r": ["16", "64"],
        "adapter.target_modules": ["q_proj", "q_proj v_proj"],
        "adapter.attention": ["causal", "structured"],
        "adapter.path_opening": ["none", "number"],
    }
    assert found.figures == {}
    assert "Adapters have no figures of their own" in capsys.readouterr().err
    run = trained(tmp_path / "run", "sft", learning_rate=1e-3)
    of_run = adapter(run / "adapter", r=8)
    mixed = compare_all([of_run, first, run])
    assert mixed.settings["adapter.r"] == ["8", "16", "8"]
    assert "A is an adapter, B is an adapter, C is an SFT run" in mixed.remarks[-1]


def test_inputs_with_nothing_in_common_are_refused_in_one_line(tmp_path: Path) -> None:
    bare, run = adapter(tmp_path / "bare"), trained(tmp_path / "run")
    with pytest.raises(RunError, match="neither settings nor figures in common; name two of a kind") as error:
        compare_all([bare, run])
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="run is alone: name a run, an evaluation"):
        compare_all([run])
    deep = trained(tmp_path / "deep" / "study" / "seed-0")
    with pytest.raises(RunError, match=f"name {deep}"):
        compare_all([tmp_path / "deep", run])
    with runs.open_run(tmp_path / "data", command="data traces", config={"command": "data traces"}) as other:
        other.finish()
    with pytest.raises(RunError, match="run of command data traces, which has nothing to compare"):
        compare_all([tmp_path / "data", run])


def test_pipelines_are_compared_name_by_name_and_one_folder_by_its_runs(tmp_path: Path) -> None:
    for name, rate in (("a", 1e-4), ("b", 1e-3)):
        trained(tmp_path / name / "rl", learning_rate=rate)
        evaluated(tmp_path / name / "eval", [1, 0], model=tmp_path / name / "rl")
    both = compare_all([tmp_path / "a", tmp_path / "b"])
    assert {*both.figures} == {"rl", "eval"}
    assert both.settings == {"rl.learning_rate": ["0.0001", "0.001"]}, "of both parts, told once"
    evaluated(tmp_path / "all" / "base", [1, 0])
    evaluated(tmp_path / "all" / "mine", [1, 1], model=tmp_path / "a" / "rl")
    one = compare_all([tmp_path / "all"])
    assert one.settings["made by"] == ["tiny → eval", "tiny → rl → eval"]
    assert one.figures["evaluation"].differences[0].how == "paired"


@pytest.mark.parametrize("text", [*HOSTILE.values(), "[bold]x[/bold] [/nothing]", "~nobody/x"])
def test_what_a_folder_says_is_shown_as_text(tmp_path: Path, text: str, capsys: Any) -> None:
    text = text[:2000]
    first = trained(tmp_path / "a" / "rl", dataset=text, rewards=[text])
    second = trained(tmp_path / "b" / "rl")
    named = tmp_path / "[red]c[/red]"
    for folder, model in ((tmp_path / "a", "a"), (tmp_path / "b", text), (named, "c")):
        evaluated(folder / "[i]x", [1, 0], model=model, dataset=f"set {text}")
    comparison.run(resolve("compare", runs=[str(first), str(second)]))
    comparison.run(resolve("compare", runs=[str(tmp_path / "a"), str(tmp_path / "b"), str(named)]))
    shown = capsys.readouterr().err
    assert "[red]c[/red]" in shown
    assert "[i]x, sampled" in shown
    assert not any(steering in shown for steering in ("\x1b[31m", "\x07", "\x00", "\u202e", "\u2066"))
    if text.startswith("[bold]"):
        assert "[bold]x[/bold]" in shown
