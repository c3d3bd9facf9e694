"""What Inspect finds by prl's entry point: the model `prl/…`, the task `prl/problems` and its scorer.

inspect eval prl/problems --model prl/runs/mine/rl -T dataset=gsm8k -T limit=100 --temperature 0
"""

from __future__ import annotations

import asyncio
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, modelapi
from inspect_ai.scorer import CORRECT, INCORRECT, Score, accuracy, scorer, stderr
from inspect_ai.solver import generate

_MESSAGES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@modelapi(name="prl")
def prl() -> Any:
    """Models of prl, whose libraries are imported when one is asked."""
    from prl.harness.inspect_model import PrlModel

    return PrlModel


@task
def problems(
    dataset: str = "arithmetic:heldout", split: str = "test", limit: int | None = None, seed: int = 0
) -> Any:
    """Problems as `prl eval --dataset` reads them (the same ones for the same `limit` and `seed`), judged as
    it judges. A model of prl adds the instruction that it was trained with, others get none. Raises
    DataError."""
    from prl.evaluation import problems_of
    from prl.settings.arguments import EvalArguments

    rows, _ = problems_of(EvalArguments(dataset=dataset, dataset_split=split, limit=limit, seed=seed))
    samples = [
        Sample(
            id=index,
            input=[
                *(_MESSAGES[turn["role"]](content=turn["content"]) for turn in row.get("history") or ()),
                ChatMessageUser(content=row["problem"]),
            ],
            target=str(row["answer"]),
            metadata={"level": row.get("level")},
        )
        for index, row in enumerate(rows)
    ]
    return Task(dataset=MemoryDataset(samples, name=dataset), solver=generate(), scorer=is_right())


@scorer(metrics=[accuracy(), stderr()])
def is_right() -> Any:
    """Whether what a response commits to is the target, by the verifier of RL and `prl eval`."""
    from prl.answers import default_checker

    async def score(state: Any, target: Any) -> Score:
        judged = await asyncio.to_thread(
            default_checker().check_responses, [state.output.completion], [target.text]
        )
        ((answer, verdict),) = judged
        said = ": ".join(part for part in (str(verdict.reason), verdict.detail) if part)
        return Score(value=CORRECT if verdict.equal else INCORRECT, answer=answer, explanation=said)

    return score
