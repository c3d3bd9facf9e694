"""Signs that RL does harm while its own reward says otherwise: each told once, with its number.

A policy that is paid on problems which it can solve rises on those; whether it got better only problems that
it is not paid for say (`--eval_dataset`). Groups that are all right or all wrong have no gradient, and Adam
makes a step of the same length from what a few others leave. Pure but for the callback at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from prl.console import console
from prl.trainer.sealing import export_from_here, exported_state

WINDOW = 5
"""Lines of the log whose mean is looked at: a single step may be chance."""

COLLAPSED = 0.1
"""Share of the first window's entropy a token at which exploration is as good as over."""

FEW = 4
"""Groups that teach, on the mean of a window, below which they are too few for a step."""

SURE = 2.0
"""Standard errors by which the held-out accuracy has to fall."""


class Evaluation(NamedTuple):
    """Held-out accuracy after a step, and the mean training reward of the steps since the one before."""

    step: int
    correct: float
    reward: float | None


def fall(before: Evaluation, now: Evaluation, responses: int) -> str | None:
    """What to say where `now`, each of `responses` to the same held-out problems, is worse than `before` by
    more than sampling explains: by `SURE` standard errors of the difference. None where it is not."""
    variance = sum(each.correct * (1 - each.correct) for each in (before, now)) / responses
    if before.correct - now.correct <= SURE * sqrt(variance):
        return None
    reward = ""
    if before.reward is not None and now.reward is not None:
        verb = "rose" if now.reward > before.reward else "went"
        reward = f", while the training reward {verb} from {before.reward:+.2f} to {now.reward:+.2f}"
    return (
        f"held-out accuracy fell from {before.correct:.1%} at step {before.step} to {now.correct:.1%} at "
        f"step {now.step}{reward}: what is trained now does harm. Keep the best adapter "
        "(--load_best_model_at_end true --metric_for_best_model correct, --patience 2 to stop), and lower "
        "--learning_rate or give problems with room left"
    )


def collapse(first: float, now: float) -> str | None:
    """What to say where the entropy a token (nats), means of a window each, is `COLLAPSED`."""
    if first <= 0 or now > COLLAPSED * first:
        return None
    return (
        f"entropy collapsed from {first:.2g} to {now:.2g} nats a token: the responses to a problem are all "
        "but the same, so few groups teach. Lower --learning_rate, or raise --temperature or --epsilon_high"
    )


def few_alive(dead: Sequence[float], norms: Sequence[float], groups: int, is_adaptive: bool) -> str | None:
    """What to say where, of `groups` a step, the shares `dead` leave fewer than `FEW` on the mean; `norms`
    are those of the gradient, before it is clipped. None where all are dead, which moves nothing."""
    alive = groups * (1 - fmean(dead))
    if not 0 < alive < FEW:
        return None
    draw = "" if is_adaptive else "--sampling adaptive, "
    return (
        f"{alive:.1f} of {groups} groups teach in each of {len(dead)} steps (gradient norm "
        f"{fmean(norms):.2g}), and Adam makes as long a step of that little as of a full batch: pass "
        f"--live_rate true or --dynamic_sampling 4, lower --learning_rate, or give {draw}more groups a step "
        "or problems with room left"
    )


class HarmWatch(TrainerCallback, ExportableState):
    """Watches the log of a GRPOTrainer (trl 1.16; `correct` is `prl.trainer.recorder`'s) for the signs above.

    `problems` are evaluated on, 0 where there is no held-out set. `is_adaptive`: problems are drawn by pass
    rate already. `live_rate`: the rate follows how many groups teach, so few of them are no sign. What it
    compares with and has told is kept in checkpoints.
    """

    def __init__(self, *, problems: int, is_adaptive: bool, live_rate: bool = False) -> None:
        self.problems, self.is_adaptive, self.live_rate = problems, is_adaptive, live_rate
        self.lines: list[list[float]] = []  # dead share and gradient norm of the last window
        self.entropies: list[float] = []
        self.rewards: list[float] = []  # since the last evaluation
        self.first_entropy: float | None = None
        self.best: Evaluation | None = None
        self.told: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        export_from_here(state, self)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs:
            return
        if "eval_correct" in logs:
            self._evaluated(args, state.global_step, logs["eval_correct"])
        elif "frac_reward_zero_std" in logs:
            self._trained(args, logs)

    def _evaluated(self, args: Any, step: int, correct: float) -> None:
        now = Evaluation(step, correct, fmean(self.rewards) if self.rewards else None)
        self.rewards = []
        if self.best is not None and self.best.reward is None:  # an evaluation before the first step
            self.best = self.best._replace(reward=now.reward)
        samples = args.num_generations_eval or args.num_generations
        if self.best is None or correct >= self.best.correct:
            self.best = now
        else:
            self._tell("fall", fall(self.best, now, self.problems * samples))

    def _trained(self, args: Any, logs: dict[str, Any]) -> None:
        if logs["reward"] is not None:  # nothing was judged
            self.rewards.append(logs["reward"])
        self.lines = [*self.lines, [logs["frac_reward_zero_std"], logs.get("grad_norm") or 0.0]][-WINDOW:]
        if "entropy" in logs:
            self.entropies = [*self.entropies, logs["entropy"]][-WINDOW:]
        if len(self.entropies) == WINDOW:
            now = fmean(self.entropies)
            self.first_entropy = now if self.first_entropy is None else self.first_entropy
            self._tell("collapse", collapse(self.first_entropy, now))
        if len(self.lines) == WINDOW and not self.live_rate:
            dead, norms = zip(*self.lines, strict=True)
            rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            said = few_alive(dead, norms, rows // args.num_generations, self.is_adaptive)
            self._tell("few", said)

    def _tell(self, sign: str, said: str | None) -> None:
        if said and sign not in self.told:
            self.told.append(sign)
            console.print(f"warning: {said}", markup=False)

    def state(self) -> dict[str, Any]:
        """What transformers writes to trainer_state.json."""
        kept = ("lines", "entropies", "rewards", "first_entropy", "best", "told")
        return {"args": {}, "attributes": {name: getattr(self, name) for name in kept}}

    def restore(self, checkpoint: Path) -> None:
        """Go on with what was seen when `checkpoint` was written; from nothing in one of an older prl."""
        saved = exported_state(checkpoint, self)
        if saved:
            for name, value in saved.items():
                setattr(self, name, value)
            self.best = Evaluation(*saved["best"]) if saved["best"] else None
