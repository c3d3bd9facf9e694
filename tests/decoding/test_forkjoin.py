"""Decoding end to end: what is sampled is what training scores, whatever is decoded beside it."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    Llama4TextConfig,
    MambaConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from prl.decoding import ForkJoinDecoder, Limits, Response, Sampling, forkjoin, row_seed
from prl.errors import ModelError, PrlError, UsageError
from prl.model import load_model
from prl.prompts import render_prompt
from prl.structure import Tags, attach_structure, read_structure
from prl.tiny import BASE

PROMPTS = [
    render_prompt("What is 6 * 7?", "bare"),
    render_prompt("Compute 12 + 30, then halve it.", "bare"),
    render_prompt(
        "And <Parallel> 1?",
        "bare",
        [
            {"role": "user", "content": "0?"},
            {"role": "assistant", "content": "I try <Parallel><Path>0</Path>"},
        ],
    ),
    render_prompt("How many of <Parallel> <Path> 3 </Path> are there?", "parallel"),
    render_prompt("What is 6 * 7?", "bare") + "I try <Parallel><Path>6 * 7",
]
SEEDS = [[row_seed(5, i, j) for j in range(4)] for i in range(len(PROMPTS))]


def scores(
    model: Any, prompt: Sequence[int], response: Response, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each token in the model's own forward pass, and as sampled."""
    ids = torch.tensor([[*prompt, *response.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float() / temperature
    own = logits.log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    return own, torch.tensor(response.logprobs)


def widest_gap(model: Any, prompts: list[list[int]], answers: list[list[Response]], **kwargs: Any) -> float:
    """Between sampled and scored log-probabilities of the tokens that were sampled."""
    pairs = [
        scores(model, prompt, response, **kwargs)
        for prompt, group in zip(prompts, answers, strict=True)
        for response in group
    ]
    return max((own - sampled).abs().nan_to_num(0).max().item() for own, sampled in pairs)


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]


def flat(answers: list[list[Response]]) -> list[Response]:
    return list(chain.from_iterable(answers))


def ids_of(answers: list[list[Response]]) -> list[list[list[int]]]:
    return [[response.token_ids for response in group] for group in answers]


@pytest.fixture(scope="module")
def structured(make_model, tags):
    """One model for the tests that only read it."""
    model = make_model()
    attach_structure(model, tags)
    return model


class Passes:
    """Records the tokens of each forward pass of the decoder."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tokens: list[int] = []
        self.handle = model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: self.tokens.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )


# --- what is sampled is what training scores ---------------------------------------------------------------


@pytest.mark.parametrize("paths", [2, 4, "auto"])
@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Mistral", "Gemma2", "Gemma3"])
def test_structured_responses_score_as_sampled(make_model, tokenizer, tags, family, paths):
    model = make_model(family, more={"<Path>": 1.0, "</Path>": 1.0} if paths == "auto" else {})
    attach_structure(model, tags)
    decoder = ForkJoinDecoder(
        model, tokenizer, limits=Limits(90, paths), sampling=Sampling(0.9), batch_size=7
    )
    answers = decoder.generate(PROMPTS, seeds=SEEDS)
    prompts, responses = encode(tokenizer, PROMPTS), flat(answers)
    gap = widest_gap(model, prompts, answers, temperature=0.9)
    assert gap <= 1e-4, f"{gap:.1e}"
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    blocks = [block for response in responses for block in response.blocks]
    assert len(blocks) > 10
    if paths == "auto":
        assert {2, 3} <= {len(block) for block in blocks}
    for prompt, group in zip(prompts, answers, strict=True):
        for response in group:
            check(response, prompt, tokenizer, tags, 90)


def check(response: Response, prompt: list[int], tokenizer: Any, tags: Any, most: int) -> None:
    """What a response says of itself."""
    ids = response.token_ids
    assert len(ids) == len(response.logprobs) == len(response.forced) <= most
    assert response.forced == [math.isnan(logprob) for logprob in response.logprobs]
    assert all(logprob <= 0 for logprob in response.logprobs if not math.isnan(logprob))
    assert response.truncated == (ids[-1] != tokenizer.eos_token_id) == (response.finish_reason == "length")
    assert not response.truncated or len(ids) == most
    assert tokenizer.eos_token_id not in ids[:-1]
    assert response.text == tokenizer.decode(ids, skip_special_tokens=True)
    positions = read_structure(torch.tensor([[*prompt, *ids]]), tags).positions[0]
    deepest = positions.max() - positions[: len(prompt)].max()
    assert response.critical_path >= deepest
    if tags.parallel not in prompt and ids.count(tags.parallel) == len(response.blocks):  # all forked
        assert response.critical_path == deepest
    for block in response.blocks:
        assert ids[block[0][0] - 1] == tags.parallel
        assert ids[block[-1][1]] == tags.end_parallel
        assert all(stop == start for (_, stop), (start, _) in pairwise(block))
        for start, stop in block:
            assert (ids[start], ids[stop - 1]) == (tags.path, tags.end_path)


@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Mistral", "Gemma2", "Gemma3"])
def test_causal_responses_score_as_sampled(make_model, tokenizer, family):
    """Tags are text: nothing is forced, nothing forks."""
    model = make_model(family)
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(60), batch_size=7)
    answers = decoder.generate(PROMPTS, seeds=SEEDS)
    gap = widest_gap(model, encode(tokenizer, PROMPTS), answers)
    assert gap <= 1e-4, f"{gap:.1e}"
    for response in flat(answers):
        assert not any(response.forced)
        assert not response.blocks
        assert response.critical_path == len(response.token_ids)
    assert any("<Parallel>" in response.text for response in flat(answers))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_structured_decoding_of_a_model_that_computes_causally(make_model, tokenizer, tags, implementation):
    """`attention="structured"` without a hook: what the hook will score. The implementation is not used."""
    model = make_model(implementation=implementation)
    decoder = ForkJoinDecoder(model, tokenizer, attention="structured", limits=Limits(80))
    answers = decoder.generate(PROMPTS, seeds=SEEDS)
    attach_structure(model, tags)
    assert widest_gap(model, encode(tokenizer, PROMPTS), answers) <= 1e-4
    again = ForkJoinDecoder(model, tokenizer, limits=Limits(80)).generate(PROMPTS, seeds=SEEDS)
    assert ids_of(again) == ids_of(answers)


def test_greedy_decodes_as_transformers_does():
    """The model that ships, causally, against `model.generate`."""
    model, tokenizer = load_model("tiny")
    prompts = [render_prompt(f"What is {i} * {i + 1} + {i}?", "bare") for i in range(8)]
    answers = ForkJoinDecoder(model, tokenizer, limits=Limits(48), sampling=Sampling(0.0)).generate(prompts)
    for prompt, (response,) in zip(prompts, answers, strict=True):
        ids = torch.tensor(encode(tokenizer, [prompt]))
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=48,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        assert response.token_ids == expected[0, ids.shape[1] :].tolist()


def test_bf16(make_model, tokenizer, tags):
    """In bf16 the two differ by rounding, as any two ways to batch a forward pass do."""
    model = make_model().to(torch.bfloat16)
    attach_structure(model, tags)
    answers = ForkJoinDecoder(model, tokenizer, limits=Limits(80)).generate(PROMPTS, seeds=SEEDS)
    gap = widest_gap(model, encode(tokenizer, PROMPTS), answers)
    assert 0 < gap < 0.15, f"{gap:.3f}"


# --- a response depends on its prompt and its seed alone ---------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 1000])
def test_the_batch_changes_nothing(structured, tokenizer, batch_size):
    def decode(batch_size: int) -> list[list[Response]]:
        decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60, "auto"), batch_size=batch_size)
        return decoder.generate(PROMPTS, seeds=SEEDS)

    expected, found = decode(64), decode(batch_size)
    assert ids_of(found) == ids_of(expected)
    for one, other in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_rows_alone_and_in_any_order(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60), batch_size=6)
    expected = ids_of(decoder.generate(PROMPTS, seeds=SEEDS))
    order = [3, 0, 4, 2, 1]
    shuffled = decoder.generate([PROMPTS[i] for i in order], seeds=[SEEDS[i] for i in order])
    assert ids_of(shuffled) == [expected[i] for i in order]
    for i, prompt in enumerate(PROMPTS):
        for j, seed in enumerate(SEEDS[i]):
            assert ids_of(decoder.generate([prompt], seeds=[[seed]])) == [[expected[i][j]]]


def test_seeds(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(30))
    drawn = decoder.generate(PROMPTS[:2], samples=3, seed=9)
    given = decoder.generate(PROMPTS[:2], seeds=[[row_seed(9, i, j) for j in range(3)] for i in range(2)])
    assert ids_of(drawn) == ids_of(given)
    assert ids_of(drawn) != ids_of(decoder.generate(PROMPTS[:2], samples=3, seed=10))
    ragged = decoder.generate([PROMPTS[0]] * 3, seeds=[[7], [], [-1, 2**80, 7]])
    assert [len(group) for group in ragged] == [1, 0, 3]
    assert ragged[0][0].token_ids == ragged[2][2].token_ids, "the same prompt twice is two prompts"


def test_token_ids_are_prompts_too(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(30))
    ids = encode(tokenizer, PROMPTS)
    assert ids_of(decoder.generate(ids, seed=2)) == ids_of(decoder.generate(PROMPTS, seed=2))
    assert ids_of(decoder.generate([ids[0], PROMPTS[1]], seed=2)) == ids_of(
        decoder.generate(PROMPTS[:2], seed=2)
    )


def test_no_random_state_is_read_or_moved(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(30))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = decoder.generate(PROMPTS, samples=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    torch.manual_seed(2)
    assert ids_of(decoder.generate(PROMPTS, samples=2)) == ids_of(first)


def test_siblings_do_not_see_each_other(structured, tokenizer, tags, monkeypatch):
    """Path 1 is drawn with other numbers: path 2 stays as it is, to the last log-probability."""
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(80, max_path_length=12))
    prompts = encode(tokenizer, PROMPTS[:1] * 12)
    expected = flat(decoder.generate(prompts, seed=1))
    uniforms = forkjoin.uniforms
    monkeypatch.setattr(
        forkjoin,
        "uniforms",
        lambda seeds, segments, indices: uniforms(
            np.where(segments == 1, seeds + np.uint64(1), seeds), segments, indices
        ),
    )
    changed_summaries = compared = 0
    for one, other in zip(expected, flat(decoder.generate(prompts, seed=1)), strict=True):
        if (
            not one.blocks
            or one.token_ids[slice(*one.blocks[0][0])] == other.token_ids[slice(*other.blocks[0][0])]
        ):
            continue
        (_, mine), (_, same) = one.blocks[0], other.blocks[0]
        assert one.token_ids[slice(*mine)] == other.token_ids[slice(*same)]
        np.testing.assert_allclose(one.logprobs[slice(*mine)], other.logprobs[slice(*same)], atol=1e-5)
        after = [response.logprobs[response.blocks[0][-1][1] + 3 :][:1] for response in (one, other)]
        compared += 1
        changed_summaries += after[0] != pytest.approx(after[1], abs=1e-4)
    assert compared >= 4
    assert changed_summaries >= compared - 1, "the summary sees both"


# --- what it costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_a_prompt_is_prefilled_once_and_a_finished_row_costs_nothing(make_model, tokenizer, batch_size):
    """Causally every token goes through the model once, but for each response's last one."""
    model = make_model()
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(25), batch_size=batch_size)
    passes = Passes(model)
    answers = decoder.generate(PROMPTS, samples=4)
    written = sum(len(response.token_ids) - 1 for response in flat(answers))
    assert len({len(response.token_ids) for response in flat(answers)}) > 5
    assert sum(passes.tokens) == sum(map(len, encode(tokenizer, PROMPTS))) + written
    prefills = len(passes.tokens) - decoder.steps
    assert 1 <= prefills <= len(PROMPTS)
    assert decoder.cache_bytes > 0
    if batch_size == 64:
        assert prefills == 1
        assert decoder.steps == max(len(response.token_ids) for response in flat(answers)) - 1


@pytest.mark.parametrize("batch_size", [3, 64])
def test_forking_prefills_nothing_again(make_model, tokenizer, tags, batch_size):
    model = make_model()
    attach_structure(model, tags)
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(70), batch_size=batch_size)
    passes = Passes(model)
    answers = decoder.generate(PROMPTS, samples=4)
    fed = sum(passes.tokens) - sum(map(len, encode(tokenizer, PROMPTS)))
    written = sum(len(response.token_ids) for response in flat(answers))
    joint = 4  # a response may end with a block: its last `</Path>` and what the decoder adds
    assert written - joint * len(flat(answers)) <= fed < written


def test_paths_are_written_side_by_side(structured, tokenizer):
    """A path costs no step of its own, unless there was no room to fork."""
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60, 3, max_blocks=9))
    compared = 0
    for i in range(12):
        ((response,),) = decoder.generate(PROMPTS[:1], seed=i)
        lengths = [[stop - start for start, stop in block] for block in response.blocks]
        in_sequence = len(response.token_ids) - sum(map(sum, lengths)) + sum(map(max, lengths))
        if lengths and response.critical_path == in_sequence:
            assert decoder.steps < in_sequence < len(response.token_ids)
            compared += 1
    assert compared >= 5


def test_small_portions_change_nothing(structured, tokenizer, monkeypatch):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(40))
    expected = decoder.generate(PROMPTS, seeds=SEEDS)
    monkeypatch.setattr(forkjoin, "PREFILL_TOKENS", 1)
    monkeypatch.setattr(forkjoin, "DRAWN_TOGETHER", 3)
    passes = Passes(structured)
    found = decoder.generate(PROMPTS, seeds=SEEDS)
    passes.handle.remove()
    assert ids_of(found) == ids_of(expected)
    assert len(passes.tokens) - decoder.steps == len(PROMPTS)


# --- the model comes back as it was ------------------------------------------------------------------------


def test_training_mode_of_each_module_comes_back(make_model, tokenizer):
    model = make_model(attention_dropout=0.5)
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[1].eval()
    before = [module.training for module in model.modules()]
    drawn = ForkJoinDecoder(model, tokenizer, limits=Limits(30)).generate(PROMPTS)
    assert [module.training for module in model.modules()] == before
    fresh = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(30)).generate(PROMPTS)
    assert ids_of(drawn) == ids_of(fresh), "without dropout, with the cache"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_leaves_the_model_as_it_was(make_model, tokenizer, interrupt):
    model = make_model(implementation="eager").train()

    def stop(done: int) -> None:
        raise interrupt

    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(20))
    with pytest.raises(interrupt):
        decoder.generate(PROMPTS, on_batch=stop)
    assert model.config._attn_implementation == "eager"
    assert all(module.training for module in model.modules())
    expected = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(20)).generate(PROMPTS)
    assert ids_of(decoder.generate(PROMPTS)) == ids_of(expected), "the decoder goes on"


def test_gradients_are_not_recorded(structured, tokenizer):
    assert torch.is_grad_enabled()
    ForkJoinDecoder(structured, tokenizer, limits=Limits(20)).generate(PROMPTS[:1])
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in structured.parameters())


# --- events ------------------------------------------------------------------------------------------------


def test_each_token_and_each_response_is_told_once(structured, tokenizer):
    told: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    ended: dict[tuple[int, int], Response] = {}
    counts: list[int] = []
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60, "auto"), batch_size=4)
    answers = decoder.generate(
        PROMPTS,
        samples=2,
        on_token=lambda prompt, sample, segment, token: told[prompt, sample].append((segment, token)),
        on_response=lambda i, j, response: ended.update({(i, j): response}),
        on_batch=counts.append,
    )
    assert counts == list(range(1, 11))
    assert ended == {(i, j): response for i, group in enumerate(answers) for j, response in enumerate(group)}
    for i, group in enumerate(answers):
        for j, response in enumerate(group):
            assert sorted(token for _, token in told[i, j]) == sorted(response.token_ids)
            paths = [path for block in response.blocks for path in block]
            numbers = sorted({segment for segment, _ in told[i, j]} - {0})
            for segment, path in zip(numbers, paths, strict=True):
                said = [token for number, token in told[i, j] if number == segment]
                assert said == response.token_ids[slice(*path)]


@pytest.mark.parametrize("step", ["admit", "launch"])
def test_what_ended_before_a_step_that_fails_is_told(step, structured, tokenizer, monkeypatch):
    """So that a run which is interrupted, or has no memory for more, keeps it."""
    ended: list[Any] = []
    told: list[Response] = []
    finished, before = forkjoin._Batch.finished, getattr(forkjoin._Batch, step)

    def fails(batch, *given):
        if ended:
            raise KeyboardInterrupt
        return before(batch, *given)

    monkeypatch.setattr(forkjoin._Batch, "finished", lambda b: (rows := finished(b), ended.extend(rows))[0])
    monkeypatch.setattr(forkjoin._Batch, step, fails)
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(60), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        decoder.generate(PROMPTS, samples=2, on_response=lambda i, j, response: told.append(response))
    assert len(told) == len(ended) > 0


# --- what is refused ---------------------------------------------------------------------------------------


def refusal(error: type[PrlError], match: str, call: Any) -> None:
    with pytest.raises(error, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([""], "prompt 0 is empty"),
        ([PROMPTS[0], []], "prompt 1 is empty"),
        (["What is 6 * 7?"], "prompt 0 does not open the assistant's turn"),
        ([PROMPTS[0], [5, 6, 7]], "prompt 1 does not open the assistant's turn"),
    ],
)
def test_faulty_prompts(structured, tokenizer, prompts, match):
    refusal(UsageError, match, lambda: ForkJoinDecoder(structured, tokenizer).generate(prompts))


def test_causally_any_prompt_will_do(make_model, tokenizer):
    decoder = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(5))
    assert [len(group) for group in decoder.generate(["What is 6 * 7?", [5]])] == [1, 1]
    refusal(UsageError, "prompt 0 is empty", lambda: decoder.generate([""]))


def test_nothing_to_do(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer)
    assert decoder.generate([]) == []
    assert decoder.generate(PROMPTS[:2], samples=0) == [[], []]
    assert decoder.generate(PROMPTS[:2], seeds=[[], []]) == [[], []]
    assert decoder.steps == decoder.cache_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(batch_size=0), "batch_size 0 must be 1 or more"),
        (dict(attention="causal"), "this model computes with structured attention"),
        (dict(attention="flash"), "attention 'flash' must be 'causal' or 'structured'"),
        (dict(limits=Limits(9)), "max_new_tokens 9 cannot hold one block of 2 paths: raise it to 10 or more"),
        (dict(limits=Limits(15, 4)), "cannot hold one block of 4 paths: raise it to 16"),
        (dict(limits=Limits(15, "auto")), "cannot hold one block of 4 paths: raise it to 16"),
    ],
)
def test_faulty_arguments(structured, tokenizer, arguments, match):
    refusal(UsageError, match, lambda: ForkJoinDecoder(structured, tokenizer, **arguments))


def test_faulty_calls(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer)
    refusal(UsageError, "samples -1 must be 0 or more", lambda: decoder.generate(PROMPTS, samples=-1))
    refusal(UsageError, "seeds for 1 prompts do not fit 5", lambda: decoder.generate(PROMPTS, seeds=[[1]]))


@pytest.mark.parametrize(
    ("structure", "limits"),
    [(True, Limits(10)), (True, Limits(1, max_blocks=0)), (False, Limits(1)), (False, Limits(3, 4))],
)
def test_the_smallest_limits(make_model, tokenizer, tags, structure, limits):
    model = make_model()
    if structure:
        attach_structure(model, tags)
    answers = ForkJoinDecoder(model, tokenizer, limits=limits).generate(PROMPTS, seeds=SEEDS)
    prompts = encode(tokenizer, PROMPTS)
    assert widest_gap(model, prompts, answers) <= 1e-4
    assert all(len(response.token_ids) <= limits.max_new_tokens for response in flat(answers))


def test_a_tokenizer_without_the_tags(make_model):
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(BASE)
    model = make_model()
    refusal(
        ModelError, "no token for <Parallel>", lambda: ForkJoinDecoder(model, bare, attention="structured")
    )
    assert ForkJoinDecoder(model, bare, limits=Limits(5)).generate(PROMPTS), "causally it needs none"


SMALL: dict[str, Any] = dict(
    vocab_size=520, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2
)
GROUPED: dict[str, Any] = dict(SMALL, num_key_value_heads=2, head_dim=8, intermediate_size=48)
STRANGERS = {
    "biases in place of positions": (BloomConfig(**SMALL), "its forward pass fails"),
    "attention of its own": (FalconConfig(**SMALL), "its forward pass fails"),
    "no attention": (
        MambaConfig(vocab_size=520, hidden_size=32, num_hidden_layers=2),
        "has layers of kind linear_attention",
    ),
    "chunks": (
        Llama4TextConfig(**GROUPED, num_local_experts=1),
        "has layers of kind chunked_attention",
    ),
    "attention sinks": (GptOssConfig(**GROUPED, num_local_experts=4), "its logits would be off by"),
    "a scaled head": (CohereConfig(**GROUPED), "its logits would be off by"),
    "a divided head": (GraniteConfig(**GROUPED, logits_scaling=4.0), "its logits would be off by"),
}


@pytest.mark.parametrize(("config", "match"), STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("spread", [None, 0.2], ids=["as initialised", "wide"])
def test_models_that_would_be_decoded_wrongly_are_refused_by_name(tokenizer, config, match, spread):
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    model = AutoModelForCausalLM.from_config(config).eval()
    if spread:
        for parameter in model.parameters():
            parameter.data.normal_(0, spread)
    before = model.config._attn_implementation
    name = type(model).__name__
    for _ in range(2):  # what was refused is not taken for checked
        refusal(
            ModelError,
            f"{name} cannot be decoded: .*{match}",
            lambda: ForkJoinDecoder(model, tokenizer),
        )
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**GROUPED),
        GPT2Config(**SMALL),
        OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32),
        GraniteConfig(**GROUPED),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_models_pass_as_initialised(tokenizer, config, dtype):
    """Attention hardly matters in a fresh model: no false alarm, and what passes is decoded right."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype).eval()
    answers = ForkJoinDecoder(model, tokenizer, limits=Limits(20)).generate(PROMPTS[:3])
    gap = widest_gap(model, encode(tokenizer, PROMPTS[:3]), answers)
    assert gap <= (1e-4 if dtype == torch.float32 else 0.05), f"{gap:.1e}"


def test_a_model_is_checked_once(make_model, tokenizer, tags):
    model = make_model()
    passes = Passes(model)
    ForkJoinDecoder(model, tokenizer)
    assert 1 <= len(passes.tokens) <= 6
    passes.tokens.clear()
    attach_structure(model, tags, probe=False)
    ForkJoinDecoder(model, tokenizer)
    assert not passes.tokens


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(make_model, tokenizer, value):
    model = make_model()
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(20))
    weight: nn.Parameter = model.model.layers[1].mlp.down_proj.weight
    weight.data[0, 0] = value
    refusal(ModelError, "logits are no numbers.*earlier checkpoint", lambda: decoder.generate(PROMPTS))
    assert model.config._attn_implementation == "sdpa"
    fresh = copy.deepcopy(model)
    refusal(ModelError, "logits are no numbers", lambda: ForkJoinDecoder(fresh, tokenizer))


@pytest.mark.real
def test_a_real_model_decodes_as_it_trains(real_model, monkeypatch):
    """135M parameters in fp32, its own words; it was never taught the tags, so chance puts them in."""
    model, tokenizer = load_model(str(real_model), attention="structured", tags="tokens")
    tags = Tags.of(tokenizer)
    draw = forkjoin.draw

    def draw_with_tags(logits: torch.Tensor, uniform: np.ndarray, sampling: Sampling) -> Any:
        words = logits.index_fill(-1, torch.tensor([*vars(tags).values()][:6]), -1e4)
        tokens, _ = draw(words, uniform, sampling)
        tokens[torch.from_numpy(uniform < 0.1)] = tags.parallel
        tokens[torch.from_numpy(uniform > 0.94)] = tags.end_path
        return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]

    monkeypatch.setattr(forkjoin, "draw", draw_with_tags)
    prompts = [
        render_prompt("Tom has 3 bags with 14 apples each and eats 5. How many are left?", "bare"),
        render_prompt("What is 17 * 24?", "bare"),
    ]
    decoder = ForkJoinDecoder(model, tokenizer, limits=Limits(150, 3), batch_size=5)
    answers = decoder.generate(prompts, samples=4)
    assert sum(len(response.token_ids) for response in flat(answers)) >= 800
    assert sum(len(response.blocks) for response in flat(answers)) >= 10
    gap = widest_gap(model, encode(tokenizer, prompts), answers)
    assert gap <= 1e-4, f"{gap:.1e}"
