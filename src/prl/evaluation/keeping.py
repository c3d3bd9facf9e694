"""Samples that stay when an evaluation is killed, and whether what goes on from them is the same evaluation.

A response depends on its prompt and on (seed, problem, sample) alone, so what is done is done: an evaluation
that goes on decodes the rest, in batches of any size, and ends as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import PreTrainedTokenizerBase

from prl import runs
from prl.decoding import Response
from prl.errors import UsageError
from prl.evaluation.measuring import Sample, judge, sample_of
from prl.model import token_columns
from prl.runs.disk import plain
from prl.settings import Settings
from prl.trainer.resuming import of_model, of_rows

SECONDS, SHARE = 1.0, 0.02
"""Samples wait to be written for no longer than this, or than this share of the time so far: what a kill
costs at the most, while a long evaluation leaves a few hundred files and no thousands."""

HARMLESS = {"output_dir", "batch_size", "threads", "bootstrap", "on_bad_rows"}
"""Settings that change no sample; what data and model hold is compared by fingerprints."""
_BY_CONTENT = {"dataset": {"dataset", "dataset_split", "limit"}, "model": {"model_name_or_path"}}


def inputs_of(settings: Settings[Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprints of the problems and of the model, for a run's environment.json."""
    return {"dataset": of_rows(rows), "model": of_model(settings.arguments.model_name_or_path)}


def check_same(
    settings: Settings[Any],
    inputs: Mapping[str, str],
    stored: Mapping[str, Any],
    stored_inputs: Mapping[str, str],
    folder: Path,
) -> dict[str, str]:
    """Nothing, as nothing may change from where an evaluation goes on; `stored` is the config.yaml that it
    began with. Raises UsageError with all that differs."""
    now, then = plain(settings.as_dict())["eval"], stored.get("eval") or {}
    known = [name for name in _BY_CONTENT if name in inputs and name in stored_inputs]
    by_content = {setting for name in known for setting in _BY_CONTENT[name]}
    names = sorted((now.keys() & then.keys()) - HARMLESS - by_content)
    changed = [f"{name} {then[name]}, now {now[name]}" for name in names if then[name] != now[name]]
    changed += [f"{name} is another" for name in known if inputs[name] != stored_inputs[name]]
    if changed:
        raise UsageError(
            f"{folder} was begun otherwise ({'; '.join(changed)}): `prl eval --recipe "
            f"{folder / 'config.yaml'} --resume` goes on as it began, --overwrite_output_dir begins anew"
        )
    return {}


class Kept:
    """The samples of an evaluation of `rows`, by mode, problem and sample, each in the run's `folder` soon
    after it is finished; those that an earlier process left there are taken up."""

    def __init__(
        self,
        folder: runs.Run,
        rows: Sequence[dict[str, Any]],
        opening: str,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._folder, self._rows, self._opening, self._tokenizer = folder, rows, opening, tokenizer
        self._done: dict[tuple[str, int, int], Sample] = {}
        self._waiting: list[tuple[int, int, Response, dict[str, float | None]]] = []
        self._began = self._written = monotonic()
        for sample in runs.read_samples(folder.folder).to_pylist() if folder.resumed else ():
            index, number = sample.get("index"), sample.get("sample")
            if index is not None and number is not None:  # else it was not asked, or an older prl wrote it
                self._done[sample["mode"], int(index), int(number)] = sample

    def __len__(self) -> int:
        return len(self._done)

    def left(
        self, mode: str, asked: Collection[int], samples: int, *, timed: bool = False
    ) -> dict[int, list[int]]:
        """Problem -> which of its samples there are not yet, or not `timed`; those with none left are not in
        it."""

        def is_left(at: tuple[str, int, int]) -> bool:
            return at not in self._done or (timed and self._done[at].get("seconds") is None)

        left = {i: [j for j in range(samples) if is_left((mode, i, j))] for i in asked}
        return {i: numbers for i, numbers in left.items() if numbers}

    def groups(self, mode: str, asked: Collection[int], samples: int) -> list[list[Sample]]:
        """The samples of each problem, none where it was not asked."""
        return [
            [self._done[mode, i, j] for j in range(samples)] if i in asked else []
            for i in range(len(self._rows))
        ]

    @contextmanager
    def keeping(self, mode: str) -> Iterator[Any]:
        """Yields the function that takes what is finished: problem, sample, response and, where it was timed,
        what it took. Whatever ends the decoding, all of it is written at the end."""

        def take(index: int, number: int, response: Response, **took: float | None) -> None:
            self._waiting.append((index, number, response, took))
            now = monotonic()
            if now - self._written >= max(SECONDS, SHARE * (now - self._began)):
                self._write(mode)

        try:
            yield take
        finally:
            self._write(mode)

    def _write(self, mode: str) -> None:
        waiting, self._waiting = self._waiting, []
        rows = [self._rows[index] for index, *_ in waiting]
        judged = judge(rows, [[response] for _, _, response, _ in waiting])
        samples = {}
        for (index, number, response, took), (verdict,) in zip(waiting, judged, strict=True):
            samples[mode, index, number] = sample_of(
                self._rows[index], response, verdict, self._opening, mode=mode, index=index, sample=number,
                **took, **token_columns(self._tokenizer, response),
            )  # fmt: skip
        self._folder.log_samples(0, [*samples.values()])
        self._done |= samples
        self._written = monotonic()
