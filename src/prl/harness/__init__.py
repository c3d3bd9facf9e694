"""prl's models in the harnesses that others trust: lm-evaluation-harness and Inspect.

    python -m prl.harness --model prl --model_args pretrained=runs/mine/rl --tasks gsm8k
    inspect eval prl/problems --model prl/runs/mine/rl

Both ask a model as `prl eval` does: with the attention, the opening of paths and the style of prompt that it
was trained with, through prl's own decoder, so that what was trained to fork forks here. `pip install
"prl[harness]"` brings them; each is imported by its own modules alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def until(text: str, stops: Iterable[str]) -> str:
    """`text` up to the first of the strings that a response stops at.

    >>> until("4 + 5 = 9. Question: 3?", ["Question:", "</s>"])
    '4 + 5 = 9. '
    """
    return text[
        : min([found for stop in stops if stop and (found := text.find(stop)) >= 0], default=len(text))
    ]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether a response commits to the `answer` of a row, by the verifier of RL and `prl eval`: the metric
    `right` of a task for lm-evaluation-harness, whose YAML names this as its `process_results`."""
    from prl.answers import default_checker

    ((_, verdict),) = default_checker().check_responses(results[:1], [doc["answer"]])
    return {"right": float(verdict.equal)}
