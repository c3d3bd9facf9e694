"""What is left of an evaluation's samples is decoded: many side by side, then those that are timed, alone.

A response depends on its prompt and its seed, and on nothing beside it, so the timed ones are samples like
the others, which have their `seconds` besides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from prl.analysis.metrics import voters
from prl.console import batches_bar
from prl.decoding import ForkJoinDecoder, Response, row_seed
from prl.decoding.timing import WARM_UP, alone
from prl.evaluation.keeping import Kept
from prl.settings.arguments import EvalArguments

Left = Mapping[int, Sequence[int]]
"""Problem -> which of its samples."""


def modes_of(arguments: EvalArguments) -> dict[str, tuple[int, float]]:
    """Mode -> samples of a problem, and the temperature."""
    greedy = {"greedy": (1, 0.0)} if arguments.greedy else {}
    return greedy | ({"sampled": (arguments.samples, arguments.temperature)} if arguments.samples else {})


def timed_of(arguments: EvalArguments, problems: int) -> Collection[int]:
    """Which of so many problems are timed: `latency` of them, evenly spread, or all.

    >>> sorted(timed_of(EvalArguments(latency=3), 8)), sorted(timed_of(EvalArguments(latency=9), 2))
    ([0, 2, 5], [0, 1])
    """
    count = problems if arguments.timed else min(arguments.latency, problems)
    return {place * problems // count for place in range(count)}


def ask(
    mode: str, decoder: ForkJoinDecoder, prompts: Sequence[str], kept: Kept, left: Left, seed: int
) -> None:
    """Decode what is `left`, as many responses at a time as the decoder has rows."""
    places, total = [*left.items()], sum(map(len, left.values()))
    if not total:
        return
    seeds = [_seeds(seed, i, numbers) for i, numbers in places]
    with batches_bar(mode, total) as on_batch, kept.keeping(mode) as take:

        def on_response(at: int, number: int, response: Response) -> None:
            index, numbers = places[at]
            take(index, numbers[number], response)

        asked = [prompts[i] for i, _ in places]
        decoder.generate(asked, seeds=seeds, on_batch=on_batch, on_response=on_response)


def ask_alone(
    mode: str, decoder: ForkJoinDecoder, prompts: Sequence[str], kept: Kept, left: Left, seed: int
) -> None:
    """Decode what is `left` one response at a time, with the `seconds` and `cpu_seconds` of each.

    Votes are answered side by side: of the k-th sample `seconds_together` are those of the first k of the
    problem in one batch, for each k that there is a maj@k of.
    """
    total, samples = sum(map(len, left.values())), decoder.batch_size
    if not total:
        return
    first = next(iter(left))
    warm_up = [(prompts[i], _seeds(seed, i, numbers[:1])) for i, numbers in [*left.items()][:WARM_UP]]
    warm_up += [(prompts[first], _seeds(seed, first, range(k))) for k in voters(samples)]
    done = 0
    with (
        batches_bar(f"{mode}, one at a time", total) as on_batch,
        kept.keeping(mode) as take,
        alone(decoder, warm_up) as clocked,
    ):
        for i, numbers in left.items():
            for j in numbers:
                more = {}
                if j + 1 in voters(samples):
                    _, together = clocked(prompts[i], _seeds(seed, i, range(j + 1)))
                    more["seconds_together"] = together.seconds
                (response,), took = clocked(prompts[i], _seeds(seed, i, [j]))
                take(i, j, response, **took._asdict(), **more)
                done += 1
                on_batch(done)


def _seeds(seed: int, index: int, numbers: Sequence[int]) -> list[int]:
    # By the place among all rows: a problem is answered the same whichever others are asked.
    return [row_seed(seed, index, number) for number in numbers]
