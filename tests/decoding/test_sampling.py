"""One number draws one token: uniform numbers, and the distribution that transformers' own filters leave."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from prl.decoding.sampling import Sampling, draw, read_back, row_seed, uniforms, uploaded
from prl.errors import UsageError

QWEN = 151_936  # tokens in the vocabulary


def grid(n: int) -> np.ndarray:
    """n numbers that share [0, 1) evenly: what is drawn with them is the distribution itself, up to 1/n."""
    return (np.arange(n) + 0.5) / n


def drawn(logits: torch.Tensor, sampling: Sampling, n: int = 20_000) -> torch.Tensor:
    """Share of each token of `logits` (vocabulary,) among n draws."""
    tokens, _ = draw(logits.expand(n, -1), grid(n), sampling)
    return torch.bincount(tokens, minlength=len(logits)) / n


# --- the numbers -------------------------------------------------------------------------------------------


def chi_square(cell: np.ndarray, cells: int) -> float:
    """How far counts are from equal, in standard deviations of what chance gives; `cell`: of each draw."""
    counts = np.bincount(cell.astype(int), minlength=cells)
    expected = len(cell) / cells
    return float((((counts - expected) ** 2 / expected).sum() - (cells - 1)) / np.sqrt(2 * (cells - 1)))


@pytest.mark.parametrize("axis", ["seed", "consecutive seed", "segment", "index"])
def test_numbers_are_uniform_along_each_axis(axis):
    n = 100_000
    along, fixed = np.arange(n), np.zeros(n, dtype=np.int64)
    seeds = np.full(n, 11, dtype=np.uint64)
    if axis == "seed":
        seeds = np.array([row_seed(7, i) for i in range(n)], dtype=np.uint64)
    elif axis == "consecutive seed":
        seeds = along.astype(np.uint64)
    values = uniforms(seeds, along if axis == "segment" else fixed, along if axis == "index" else fixed)
    assert 0 <= values.min() < values.max() < 1
    assert abs(chi_square(np.floor(values * 1000), 1000)) < 4
    # Neighbours have nothing to do with each other: pairs fill the square evenly.
    thirtieths = np.floor(values * 30)
    assert abs(chi_square(thirtieths[:-1] * 30 + thirtieths[1:], 900)) < 4


def test_a_number_depends_on_nothing_beside_it():
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 2**64, 50, dtype=np.uint64)
    segments, indices = rng.integers(0, 9, 50), rng.integers(0, 4096, 50)
    together = uniforms(seeds, segments, indices)
    alone = [uniforms(seeds[i : i + 1], segments[i : i + 1], indices[i : i + 1])[0] for i in range(50)]
    assert together.tolist() == alone
    order = rng.permutation(50)
    assert uniforms(seeds[order], segments[order], indices[order]).tolist() == together[order].tolist()


def test_numbers_do_not_repeat():
    grids = np.meshgrid(np.arange(20, dtype=np.uint64), np.arange(12), np.arange(300), indexing="ij")
    values = uniforms(*(each.ravel() for each in grids))
    assert len(np.unique(values)) == len(values)


def test_the_largest_number_stays_below_any_total():
    largest = 1 - 2.0**-52
    totals = np.random.default_rng(0).random(1000) + np.finfo(float).tiny
    assert (largest * totals < totals).all()


@pytest.mark.parametrize("parts", [(), (0,), (1, 2, 3), (-1, 2**70), (2**64 - 1,)])
def test_row_seed(parts):
    assert 0 <= row_seed(*parts) < 2**64
    assert row_seed(*parts) == row_seed(*parts)


def test_a_stored_seed_means_the_same_numbers_for_ever():
    """Else no run could be repeated that an earlier version made."""
    assert row_seed(1, 2, 3) == 12997252459554536576
    assert row_seed(-1, 2**70) == 12591116029944179981
    seeds = np.array([0, 7, 2**64 - 1], dtype=np.uint64)
    assert uniforms(seeds, np.array([0, 1, 2]), np.array([0, 5, 4000])).tolist() == [
        0.8833108082136425, 0.18228523894280202, 0.6032479049937811,
    ]  # fmt: skip


def test_row_seeds_differ():
    assert len({row_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}) == 1000
    assert row_seed(1, 2) != row_seed(2, 1)


# --- the tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("vocabulary", [2, 127, 128, 129, 500])
def test_drawn_as_often_as_likely(temperature, vocabulary):
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    expected = (logits / temperature).softmax(-1)
    assert (drawn(logits, Sampling(temperature)) - expected).abs().max() <= 1.01 / 20_000


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (
            Sampling(),
            [79658, 45898, 142985, 134173, 100828, 52347, 60521, 91916, 123285, 13279],
        ),
        (
            Sampling(0.6, top_p=0.95, top_k=20),
            [79536, 59301, 133454, 123161, 102926, 52865, 52514, 96841, 126316, 6661],
        ),
        (
            Sampling(1.7, top_p=0.8, min_p=0.05),
            [79658, 45898, 142972, 134175, 100826, 52347, 60536, 91901, 123283, 13279],
        ),
    ],
    ids=["plain", "as Qwen3 thinks", "hot"],
)
def test_a_stored_seed_means_the_same_tokens_for_ever(sampling, expected):
    """Those that were drawn when all of it was done on the CPU (the version before commit ecffc32). No
    generator makes the logits, so they are the same wherever this runs."""
    count = len(expected)
    place = torch.arange(count * QWEN).view(count, QWEN)
    logits = (place * 2_654_435_761 % 2**20) / 2**16  # Knuth's multiplicative hash: from 0 to 16
    zeros = np.zeros(count, dtype=np.int64)
    numbers = uniforms(np.full(count, 7, dtype=np.uint64), zeros, np.arange(count))
    tokens, _ = draw(logits, numbers, sampling)
    assert tokens.tolist() == expected


def test_sampling_as_a_command_was_told():
    told = SimpleNamespace(temperature=0.6, top_p=0.9, top_k=None, min_p=None, seed=7)  # TRL's None: off
    assert Sampling.of(told) == Sampling(0.6, 0.9, 0, 0.0)
    assert Sampling.of(told, temperature=0.0, top_k=5) == Sampling(0.0, 0.9, 5, 0.0)


FILTERS = [
    Sampling(top_k=1),
    Sampling(top_k=5),
    Sampling(top_k=1000),
    Sampling(top_p=0.01),
    Sampling(top_p=0.5),
    Sampling(top_p=0.95),
    Sampling(min_p=0.02),
    Sampling(min_p=0.3),
    Sampling(min_p=1.0),
    Sampling(0.6, top_p=0.95, top_k=20),
    Sampling(1.7, top_p=0.8, top_k=50, min_p=0.05),
    Sampling(0.9, top_p=0.9, min_p=0.1),
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_filters_leave_what_transformers_leaves(sampling, spread):
    logits = torch.randn(10, 200, generator=torch.Generator().manual_seed(0)) * spread
    warpers = LogitsProcessorList()
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(None, logits / sampling.temperature).softmax(-1)
    n = 4000
    for row, left in zip(logits, expected, strict=True):
        share = drawn(row, sampling, n)
        assert (share - left).abs().max() <= 1.01 / n
        assert share[left == 0].sum() == 0


def test_top_k_keeps_ties_as_transformers_does():
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    kept = TopKLogitsWarper(2)(None, logits[None])[0].isfinite()
    assert ((drawn(logits, Sampling(top_k=2)) > 0) == kept).all()
    assert kept.tolist() == [False, True, True, True, False]


def test_equal_logits_are_equally_likely():
    share = drawn(torch.zeros(1000), Sampling())
    assert (share - 1e-3).abs().max() <= 1.01 / 20_000


def test_log_probability_is_that_of_the_model_whatever_is_filtered():
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(0)) * 3
    tokens, logprobs = draw(logits, grid(300), Sampling(0.7, top_p=0.5, top_k=3, min_p=0.2))
    torch.testing.assert_close(logprobs, (logits / 0.7).log_softmax(-1)[torch.arange(300), tokens])


def test_greedy_takes_the_likeliest_and_scores_without_temperature():
    logits = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = draw(logits, grid(30), Sampling(temperature=0, top_p=0.1))
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).max(-1).values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn_in_single(dtype):
    logits = (torch.randn(30, 300, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    tokens, logprobs = draw(logits, grid(30), Sampling(0.8))
    same, exact = draw(logits.float(), grid(30), Sampling(0.8))
    assert tokens.tolist() == same.tolist()
    assert logprobs.dtype == torch.float32
    assert logprobs.tolist() == exact.tolist()


INF = float("inf")
EXTREMES = {
    "one token holds everything": torch.tensor([-1e4, 1e4, -1e4, 0.0]),
    "all but one impossible": torch.tensor([-INF, 3.0, -INF, -INF]),
    "far apart": torch.tensor([1e4, 1e4 - 1, 0.0, -1e4]),
    "impossible in between": torch.tensor([0.0, -INF, 0.0, -INF]),
    "impossible at the end": torch.cat([torch.zeros(3), torch.full((500,), -INF)]),
    "far below": torch.tensor([-1e4, -1e4, -3e4, -1e4]),
}


@pytest.mark.parametrize("logits", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(1e-3), Sampling(0.5, 0.9, 2, 0.1), Sampling(0)], ids=str
)
def test_extreme_logits(logits, sampling):
    """Only possible tokens, with finite log-probabilities, even by the smallest and the largest number."""
    numbers = np.array([0.0, 2.0**-52, 0.25, 0.5, 1 - 2.0**-24, 1 - 2.0**-52])
    tokens, logprobs = draw(logits.expand(len(numbers), -1), numbers, sampling)
    probabilities = (logits / (sampling.temperature or 1)).softmax(-1)
    assert (probabilities[tokens] > 0).all()
    assert logprobs.isfinite().all()


@pytest.mark.parametrize("fill", [float("nan"), INF, -INF])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0), Sampling(1.0, 0.9, 3, 0.1)], ids=str)
def test_logits_that_are_no_numbers_show_in_the_log_probability(fill, sampling):
    tokens, logprobs = draw(torch.full((2, 300), fill), grid(2), sampling)
    assert logprobs.isnan().all()
    assert ((tokens >= 0) & (tokens < 300)).all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=20)], ids=str)
def test_each_number_draws_a_token_of_its_own(sampling):
    """Rows of a batch do not touch each other."""
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(1)) * 2
    tokens, logprobs = draw(logits, grid(20), sampling)
    for i in range(20):
        token, logprob = draw(logits[i : i + 1], grid(20)[i : i + 1], sampling)
        assert (token.item(), logprob.item()) == (tokens[i].item(), logprobs[i].item())


def test_draws_are_read_back_to_the_bit():
    tokens = torch.tensor([0, QWEN - 1, 7, 2**31 - 1])
    logprobs = torch.tensor([-0.1, -1e-42, -INF, float("nan")])
    told, scored = read_back([(tokens[:1], logprobs[:1]), (tokens[1:], logprobs[1:])])
    assert told == tokens.tolist()
    assert torch.tensor(scored).view(torch.int32).tolist() == logprobs.view(torch.int32).tolist()


def test_what_is_uploaded_may_be_laid_out_anyhow():
    values = np.arange(12).reshape(3, 4).T[::-1]
    assert uploaded(values, torch.device("cpu")).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("logits", "why"),
    [
        (torch.randn(QWEN, generator=torch.Generator().manual_seed(0)) * 2, "flat"),
        (
            torch.cat(
                [torch.tensor([19.0]), torch.randn(QWEN - 1, generator=torch.Generator().manual_seed(0))]
            ),
            "peaked",
        ),
    ],
    ids=["flat", "peaked"],
)
def test_the_tail_of_a_real_vocabulary_is_drawn(logits, why):
    """A float32 sum over the vocabulary would leave out the rarest tokens, two thirds of the tail's mass."""
    exact = logits.double().softmax(-1)
    ends = exact.cumsum(-1)
    # Numbers that lie in the middle of rare tokens' shares, all over the vocabulary.
    rare = torch.arange(1, QWEN, 997)
    numbers = (ends - exact / 2)[rare] / ends[-1]
    tokens, _ = draw(logits.expand(len(rare), -1), numbers.numpy(), Sampling())
    # The probabilities themselves are float32, so that a share may be shifted by a few tokens.
    shift = (ends[tokens] - ends[rare]).abs()
    assert shift.max() < 3e-7, f"{why}: {shift.max():.1e}"
    assert len(tokens.unique()) > 0.9 * len(rare)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (dict(temperature=-0.1), r"temperature -0.1 must be 0 \(greedy\) or more"),
        (dict(temperature=float("nan")), "temperature nan"),
        (dict(top_p=0.0), "top_p 0.0 must be above 0 and at most 1"),
        (dict(top_p=1.1), "top_p 1.1"),
        (dict(top_p=float("nan")), "top_p nan"),
        (dict(top_k=-1), r"top_k -1 must be 0 \(off\) or more"),
        (dict(min_p=-0.1), r"min_p -0.1 must be from 0 \(off\) to 1"),
        (dict(min_p=1.5), "min_p 1.5"),
        (
            dict(temperature=-1, top_p=2, top_k=-3, min_p=2),
            "temperature -1.*; top_p 2.*; top_k -3.*; min_p 2",
        ),
    ],
)
def test_faulty_sampling(fields, fault):
    with pytest.raises(UsageError, match=fault) as raised:
        Sampling(**fields)
    assert "\n" not in str(raised.value)
