"""The curriculum inside GRPOTrainer: which problems come next, which rewards are paid, its state in
checkpoints.

TRL's data loader fetches one batch ahead, so a sampler that looks at the latest pass rates would always be
one generation late. Here the loader only turns the wheel: what it delivers is exchanged for the curriculum's
choice at the moment when responses are about to be sampled.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer

from prl.answers import default_checker
from prl.console import console
from prl.curriculum import Curriculum
from prl.errors import RunError
from prl.grammar import parse
from prl.rewards import AlternatingReward, Reward, text_of
from prl.structure import path_opening
from prl.trainer.sealing import exported_state


class Staging(TrainerCallback, ExportableState):
    """Drives a `Curriculum` over `table`, the rows of all its stages, while GRPOTrainer trains.

    A stage that names no rewards pays the `default` ones, and each pays those of `always`; the window of
    `alternating` counts from its beginning. Logs with every step what the curriculum says of its draws; a new
    stage is a line for people. The curriculum's state is in every checkpoint's trainer_state.json.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        table: Sequence[Mapping[str, Any]],
        default: Sequence[str] = (),
        alternating: AlternatingReward | None = None,
        always: Sequence[str] = (),
    ) -> None:
        self.curriculum, self.table, self.alternating = curriculum, table, alternating
        self.default, self.always = default, always
        self.drawn: list[int] = []  # problems of the last generation, of all processes
        self.correct: list[bool] = []  # of the responses of the step at hand
        self.parallel: list[bool] = []

    def pays(self, reward: str) -> bool:
        """Whether the stage at hand pays it."""
        return reward in self.always or reward in (self.curriculum.stage.rewards or self.default)

    def staged(self, rewards: Mapping[str, Reward]) -> dict[str, Reward]:
        """`rewards` by name; in a stage that does not pay one, it judges nothing (None, which TRL skips)."""

        def staged(name: str, reward: Reward) -> Reward:
            @functools.wraps(reward)
            def pay(completions: Sequence[Any], **columns: Any) -> list[float | None]:
                if self.pays(name):
                    return reward(completions=completions, **columns)
                return [None] * len(completions)

            return pay

        return {name: staged(name, reward) for name, reward in rewards.items()}

    def choose(self, rows: list[dict[str, Any]], trainer: GRPOTrainer) -> list[dict[str, Any]]:
        """The curriculum's problems in place of `rows`."""
        return self.rows(len(rows), trainer)

    def rows(self, count: int, trainer: GRPOTrainer) -> list[dict[str, Any]]:
        """The next `count` rows, each problem `num_generations` times: every process draws the same problems
        and takes its part."""
        group, accelerator = trainer.num_generations, trainer.accelerator
        self.drawn = self.curriculum.draw(count * accelerator.num_processes // group)
        repeated = [problem for problem in self.drawn for _ in range(group)]
        first = accelerator.process_index * count
        return [dict(self.table[problem]) for problem in repeated[first : first + count]]

    def watch(self, trainer: GRPOTrainer) -> None:
        """Have a trainer of a script of your own follow the curriculum, as `prl.trainer.grpo.GRPO` does in
        `prl rl`. Rows of `table` hold what its data set has, `answer` among it. A response counts as right as
        `accuracy_reward` judges, whatever the rewards pay; what the model makes its paths begin with is
        nothing that they say.

        Wraps `_generate_and_score_completions` of this one trainer (trl 1.16), which gets the rows of a
        generation, each `num_generations` times in a row, and leaves the completions of all processes in
        `_logs`.
        """
        generate = trainer._generate_and_score_completions

        def staged(rows: list[dict[str, Any]]) -> dict[str, Any]:
            if not trainer.model.training:
                return generate(rows)
            outputs = generate(self.choose(rows, trainer))
            group = trainer.num_generations
            golds = [self.table[problem]["answer"] for problem in self.drawn for _ in range(group)]
            texts = [text_of(each) for each in trainer._logs["completion"]][-len(golds) :]
            correct = [verdict.equal for _, verdict in default_checker().check_responses(texts, golds)]
            opening = path_opening(trainer.accelerator.unwrap_model(trainer.model))
            self.observe(correct, [parse(text, opening=opening).uses_parallel for text in texts])
            return outputs

        trainer._generate_and_score_completions = staged
        # In front: what it adds to the logs reaches the trainer's own loggers.
        trainer.callback_handler.callbacks.insert(0, self)

    def observe(self, correct: Sequence[bool], parallel: Sequence[bool]) -> None:
        """Outcomes of the last generation: a value a response of all processes, in the order of the draw."""
        size = len(correct) // len(self.drawn)
        self.curriculum.record(
            (problem, sum(correct[start : start + size]), size)
            for problem, start in zip(self.drawn, range(0, len(correct), size), strict=True)
        )
        self.correct += correct
        self.parallel += parallel

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = {"accuracy": self.correct, "parallel_ratio": self.parallel}
        # A step that reuses the generation before measures nothing.
        measured = {name: sum(each) / len(each) for name, each in told.items() if each}
        reason = self.curriculum.advance(state.global_step, **measured)
        self.correct, self.parallel = [], []
        if reason:
            self._start_window()
            console.print(
                f"step {state.global_step:>5}  stage {self.curriculum.stage.name}: {reason}", markup=False
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            logs |= self.curriculum.metrics()

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json; `restore` reads it."""
        return {"args": {}, "attributes": self.curriculum.state()}

    def restore(self, checkpoint: Path) -> None:
        """Go on as `checkpoint` left off. RunError where it holds no curriculum or that of other stages."""
        saved = exported_state(checkpoint, self)
        if saved is None:
            raise RunError(
                f"{checkpoint} holds no curriculum: the run was begun without one; resume it without stages"
            )
        self.curriculum.restore(saved)
        self._start_window()

    def _start_window(self) -> None:
        if self.alternating:
            self.alternating.start = self.curriculum.entered_at
