"""Drawing tokens, so that a rollout depends on its own seed and on nothing else.

Each token takes one number that is a function of (row's seed, segment, index in the segment): not of the
batch that it is decoded in, nor of what siblings are doing, nor of any generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prl.errors import UsageError

BLOCK = 128  # tokens of the vocabulary that are summed up together; divides Qwen's 151,936


@dataclass(frozen=True)
class Sampling:
    """How to draw: `temperature` 0 takes the likeliest token; 0 switches `top_k` and `min_p` off, 1 `top_p`.
    `path_temperature` goes for tokens of paths, and what follows the last of them; None: as elsewhere.

    The filters apply in the order of transformers: temperature, top-k, top-p (the likeliest tokens that hold
    this much probability), min-p (at least this share of the likeliest one's probability; arXiv 2407.01082).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    path_temperature: float | None = None

    def __post_init__(self) -> None:
        faults = []
        if not self.temperature >= 0:
            faults.append(f"temperature {self.temperature} must be 0 (greedy) or more")
        if self.path_temperature is not None and not self.path_temperature >= 0:
            faults.append(f"path_temperature {self.path_temperature} must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            faults.append(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.top_k < 0:
            faults.append(f"top_k {self.top_k} must be 0 (off) or more")
        if not 0 <= self.min_p <= 1:
            faults.append(f"min_p {self.min_p} must be from 0 (off) to 1")
        if faults:
            raise UsageError("; ".join(faults))

    @classmethod
    def of(cls, settings: Any, **given: float) -> Sampling:
        """As a command, or TRL's GRPOConfig, was told to draw: its `temperature`, `top_p`, `top_k`, `min_p`,
        each off where it is None, and `path_temperature` where it has one. What is `given` goes before; at
        temperature 0 paths are greedy too."""
        told = {name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "min_p")} | given
        if told["temperature"] != 0:
            told["path_temperature"] = getattr(settings, "path_temperature", None)
        return cls(**{name: value for name, value in told.items() if value is not None})


def row_seed(*parts: int) -> int:
    """One 64-bit seed from several numbers, such as (run's seed, problem, sample)."""
    return int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)[0])


def uniforms(seeds: np.ndarray, segments: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, one for each (seed, segment, index); all of shape (M,), seeds uint64.

    splitmix64 (Steele et al., OOPSLA 2014) as a hash. The largest is 1 - 2**-52: times any total it stays
    below the total.
    """
    with np.errstate(over="ignore"):
        state = _mix(seeds.astype(np.uint64) + _GOLDEN * segments.astype(np.uint64))
        state = _mix(state + _GOLDEN * (indices.astype(np.uint64) + np.uint64(1)))
    return (state >> np.uint64(12)).astype(np.float64) * 2.0**-52


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uploaded(values: np.ndarray, device: torch.device) -> Tensor:
    """The same on a device. A GPU is not waited for: the copy queues behind what it was told to do so far."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def read_back(drawn: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[int], list[float]]:
    """Tokens and log-probabilities of several draws, in one copy: the only thing that a step waits for."""
    tokens, logprobs = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    copied, bits = torch.stack([tokens.int(), logprobs.view(torch.int32)]).cpu()
    return copied.tolist(), bits.view(torch.float32).tolist()


def draw_apart(
    logits: Tensor, uniform: np.ndarray, sampling: Sampling, in_path: np.ndarray
) -> tuple[Tensor, Tensor]:
    """`draw` where paths have a temperature of their own: they are those of `in_path`, bool (M,)."""
    assert sampling.path_temperature is not None
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(len(logits), device=logits.device)
    for rows, temperature in ((~in_path, sampling.temperature), (in_path, sampling.path_temperature)):
        if rows.any():
            chosen = uploaded(np.flatnonzero(rows), logits.device)
            drawn = draw(logits[chosen], uniform[rows], replace(sampling, temperature=temperature))
            tokens[chosen], logprobs[chosen] = drawn
    return tokens, logprobs


def draw(logits: Tensor, uniform: np.ndarray, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens (M,) for logits (M, vocabulary), one by each number of `uniform` (M,), and their
    log-probabilities under softmax(logits / temperature), or softmax(logits) at temperature 0.

    The log-probability is that of the model, before the filters, as training scores it. It is nan where
    logits are no numbers.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1)
    else:
        logprobs = (logits / sampling.temperature).log_softmax(-1)
        tokens = _pick(_filter(logprobs.exp(), sampling), uniform)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def _pick(weights: Tensor, uniform: np.ndarray) -> Tensor:
    """The first index (M,) at which the cumulated weights (M, N) exceed uniform × their total.

    In two steps, the block and the place in it, so that little is left to sum up in float64 (for Apple GPUs,
    which have none, on the CPU). Cumulated over 150,000 tokens in float32, the rarest two thirds of a peaked
    distribution add nothing and would never be drawn.
    """
    exact = torch.device("cpu") if weights.device.type == "mps" else weights.device
    blocks = functional.pad(weights, (0, -weights.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    totals = blocks.sum(-1).to(exact).double()
    ends = totals.cumsum(-1)
    target = uploaded(uniform, exact)[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp(max=blocks.shape[1] - 1)
    target -= (ends - totals).gather(-1, block)
    inside = blocks.take_along_dim(block[..., None].to(blocks.device), 1).squeeze(1).to(exact).double()
    place = torch.searchsorted(inside.cumsum(-1), target, right=True).clamp(max=BLOCK - 1)
    # Rounding may lead past the last weight of the block: then its heaviest is taken.
    place = torch.where(inside.gather(-1, place) > 0, place, inside.argmax(-1, keepdim=True))
    return (block * BLOCK + place).squeeze(-1).to(weights.device)


def _filter(probabilities: Tensor, sampling: Sampling) -> Tensor:
    if 0 < sampling.top_k < probabilities.shape[-1]:
        least = probabilities.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities = torch.where(probabilities >= least, probabilities, 0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        total = ordered.sum(-1, keepdim=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p * total
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.max(-1, keepdim=True).values
        probabilities = torch.where(probabilities >= least, probabilities, 0)
    return probabilities
