"""Paths with an opening: the same tokens in SFT, scoring and decoding."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from math import isnan
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forkjoin import PROMPTS, SEEDS, encode, flat, ids_of, scores, widest_gap
from test_threads import Written

from prl import config, sft
from prl.data import search
from prl.decoding import ForkJoinDecoder, Limits, Sampling, forkjoin
from prl.decoding.threads import Row, Thread
from prl.errors import UsageError
from prl.grammar import opening_text, parse, plan_lines
from prl.grammar.openings import lines_of, with_plans
from prl.model import load_model
from prl.prompts import render_prompt
from prl.structure import (
    Opener,
    Tags,
    attach_structure,
    forced_tokens,
    read_structure,
    response_ids,
    set_path_opening,
)
from prl.structure.reader import Reader

SPELLED = ("<Parallel>", "</Parallel>", "<Path>", "</Path>", "<Summary>", "</Summary>")
LETTERS = "[](){}.ab\n1234567890<>Pth"
"""One letter a token, the tags as in test_threads; what spells a tag in letters is text."""
EOS = LETTERS.index(".")
TAGS = Tags(*range(6), glue=(LETTERS.index("\n"),))


class Letters:
    """What `Opener` asks of a tokenizer, for `LETTERS`."""

    def __init__(self) -> None:
        self.added_tokens_decoder = {
            i: SimpleNamespace(content=tag, special=False) for i, tag in enumerate(SPELLED)
        }
        self.all_special_ids = [EOS]

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        for i, tag in enumerate(SPELLED):
            text = text.replace(tag, LETTERS[i])
        return {"input_ids": [LETTERS.index(letter) for letter in text]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(SPELLED[i] if i < 6 else "" if i == EOS else LETTERS[i] for i in ids)


def ids(written: str) -> list[int]:
    return [LETTERS.index(letter) for letter in written]


def decode(choose: Any, limits: Limits) -> Written:
    """`test_threads.decode` with an opener."""
    opener = Opener.of(limits.path_opening or "none", Letters())  # type: ignore[arg-type]
    row = Row(
        0, 0, reader=Reader(TAGS, opener), slots=0, seed=0, limits=limits, eos_token_id=EOS,
        says_found=lambda path: LETTERS.index("b") in path,
    )  # fmt: skip
    written = Written(row)
    row.take(row.main, choose(row.main), -1.0)
    while not row.is_finished:
        threads = dict.fromkeys(unseen.thread for unseen in row.unseen if unseen.thread.is_live)
        assert threads, "a row that is not finished goes on"
        written.fed += row.unseen
        row.unseen.clear()
        for thread in threads:
            row.take(thread, choose(thread), -1.0)
    written.fed += row.unseen
    return written


def text_of(written: Written) -> str:
    return "".join(LETTERS[i] for i in written.ids)


def scripted(scripts: dict[int, str], limits: Limits) -> Written:
    streams = {segment: iter(script) for segment, script in scripts.items()}
    return decode(lambda thread: LETTERS.index(next(streams.get(thread.segment, iter("")), "a")), limits)


CASES = {
    "numbers": (
        dict(path_opening="number"),
        {0: "a[b}.", 1: "ab)", 2: ")"},
        "a[(\n1\nab)(\n2\n)]\n{b}.",
        "  ^^^^   ^^^^ ^^^",
    ),
    "anew in each block": (
        dict(path_opening="number"),
        {0: "[}[.", 1: ")", 2: ")", 3: ")", 4: ")"},
        "[(\n1\n)(\n2\n)]\n{}[(\n1\n)(\n2\n)]\n{.",
        " ^^^^ ^^^^ ^^^  ^^^^ ^^^^ ^^^",
    ),
    "an opening is no part of a path's length": (
        dict(path_opening="number", max_path_length=2),
        {0: "[.", 1: "aaa", 2: "bbb"},
        "[(\n1\naa)(\n2\nbb)]\n{.",
        " ^^^^  ^^^^^  ^^^^",
    ),
    "the smallest block": (
        dict(path_opening="number", max_new_tokens=16),
        {0: "[", 1: "bb", 2: "bb"},
        "[(\n1\nb)(\n2\nb)]\n{",
        " ^^^^ ^^^^^ ^^^^",
    ),
    "one token less: text": (
        dict(path_opening="number", max_new_tokens=15),
        {0: "[(b)(b)]{bbbbbb"},
        "[(b)(b)]{bbbbbb",
        "",
    ),
    "auto: the model says that there is a third, its number is forced": (
        dict(path_opening="number", paths="auto"),
        {0: "[.", 1: "a)", 2: "b)(", 3: ")]"},
        "[(\n1\na)(\n2\nb)(\n3\n)]\n{.",
        " ^^^^  ^^^^   ^^^  ^^",
    ),
    "auto: a third path has the room of the others": (
        dict(path_opening="number", paths="auto", max_path_length=2, max_paths=3),
        {0: "[.", 1: "aaa", 2: "b)(", 3: "aaa"},
        "[(\n1\naa)(\n2\nb)(\n3\naa)]\n{.",
        " ^^^^  ^^^^^   ^^^  ^^^^",
    ),
    "a plan": (
        dict(path_opening="plan"),
        {0: "ab\nb\n[}.", 1: "a)", 2: ")"},
        "ab\nb\n[(\nab\na)(\nb\n)]\n{}.",
        "      ^^^^^  ^^^^ ^^^",
    ),
    "a plan after a block": (
        dict(path_opening="plan"),
        {0: "[b}a\nb\n[}.", 1: ")", 2: ")", 3: ")", 4: ")"},
        "[()()]\n{b}a\nb\n[(\na\n)(\nb\n)]\n{}.",
        " ^ ^ ^^^       ^^^^ ^^^^ ^^^",
    ),
    "more paths than lines": (
        dict(path_opening="plan", paths=3),
        {0: "a\nb[.", 1: ")", 2: ")", 3: "b)"},
        "a\nb[(\na\n)(\nb\n)(b)]\n{.",
        "    ^^^^ ^^^^ ^  ^^^",
    ),
    "fewer paths than lines": (
        dict(path_opening="plan"),
        {0: "a\nb\n1[.", 1: ")", 2: ")"},
        "a\nb\n1[(\na\n)(\nb\n)]\n{.",
        "      ^^^^ ^^^^ ^^^",
    ),
    "auto: the plan decides, nobody is asked": (
        dict(path_opening="plan", paths="auto"),
        {0: "a\nb\n1[.", 1: ")((", 2: ")((", 3: ")(("},
        "a\nb\n1[(\na\n)(\nb\n)(\n1\n)]\n{.",
        "      ^^^^ ^^^^ ^^^^ ^^^",
    ),
    "auto: no more than allowed": (
        dict(path_opening="plan", paths="auto", max_paths=2),
        {0: "a\nb\n1[.", 1: ")", 2: ")"},
        "a\nb\n1[(\na\n)(\nb\n)]\n{.",
        "      ^^^^ ^^^^ ^^^",
    ),
    "auto without a plan: the model decides": (
        dict(path_opening="plan", paths="auto"),
        {0: "a[.", 1: "a)", 2: "b)(", 3: "b)]"},
        "a[(a)(b)(b)]\n{.",
        "  ^  ^      ^^",
    ),
    "what a line spells is text": (
        dict(path_opening="plan"),
        {0: "a<Path\n1<<Path[.", 1: ")", 2: ")"},
        "a<Path\n1<<Path[(\na<Path\n)(\n1<<Path\n)]\n{.",
        "               ^^^^^^^^^ ^^^^^^^^^^ ^^^",
    ),
    "join first: the first path has found it": (
        dict(join="first"),
        {0: "[.", 1: "b)", 2: "aaaa)"},
        "[(b)(a)]\n{.",
        " ^  ^ ^^^^",
    ),
    "join first: the second has, the first had one token more by then": (
        dict(join="first"),
        {0: "[.", 1: "aaaa)", 2: "b)"},
        "[(aa)(b)]\n{.",
        " ^  ^^  ^^^",
    ),
    "join first: both in one step": (
        dict(join="first"),
        {0: "[.", 1: "b)", 2: "b)"},
        "[(b)(b)]\n{.",
        " ^  ^ ^^^^",
    ),
    "join first: nobody has": (
        dict(join="first"),
        {0: "[.", 1: "a)", 2: "aaa)"},
        "[(a)(aaa)]\n{.",
        " ^  ^    ^^^",
    ),
    "join first: one closed for it counts": (
        dict(join="first", max_path_length=2),
        {0: "[.", 1: "ab", 2: "aa"},
        "[(ab)(a)]\n{.",
        " ^  ^^ ^^^^",
    ),
    "join first: what its plan says is not found": (
        dict(join="first", path_opening="plan"),
        {0: "b\na[.", 1: "a)", 2: "aa)"},
        "b\na[(\nb\na)(\na\naa)]\n{.",
        "    ^^^^  ^^^^   ^^^",
    ),
    "join first, auto: nobody is asked for a further path": (
        dict(join="first", paths="auto"),
        {0: "[.", 1: "ab)", 2: "a)("},
        "[(ab)(a)]\n{.",
        " ^   ^  ^^^",
    ),
    "join first, auto: the last one has found it": (
        dict(join="first", paths="auto"),
        {0: "[.", 1: "aaa)", 2: "b)("},
        "[(aa)(b)]\n{.",
        " ^  ^^  ^^^",
    ),
    "join first: the next block is one of its own": (
        dict(join="first"),
        {0: "[[.", 1: "b)", 2: "aaa)", 3: "a)", 4: "aa)"},
        "[(b)(a)]\n{[(a)(aa)]\n{.",
        " ^  ^ ^^^^ ^  ^   ^^^",
    ),
    "a block that does not fork has no openings": (
        dict(path_opening="number", max_blocks=0),
        {0: "[(a)(b)]{."},
        "[(a)(b)]{.",
        "",
    ),
}


@pytest.mark.parametrize(("limits", "scripts", "text", "forced"), CASES.values(), ids=CASES)
def test_what_is_written(limits, scripts, text, forced):
    written = scripted(scripts, Limits(**{"max_new_tokens": 80, **limits}))
    assert (text_of(written), written.forced) == (text, forced)
    check(written)


def check(written: Written) -> None:
    """What training reads is what was fed, and no opening holds a control token."""
    opener = Opener.of(written.row.limits.path_opening or "none", Letters())
    assert len(forced_tokens(written.ids, TAGS, opener=opener)) == len(written.ids)
    row, ids = written.row, written.ids
    structure = read_structure(torch.tensor([ids]), TAGS)
    segments, _, positions = (field[0].tolist() for field in structure[:3])
    by_thread: dict[Thread, list[Any]] = defaultdict(list)
    for unseen in written.fed:
        by_thread[unseen.thread].append(unseen)
    fed = [unseen for thread in row.threads for unseen in by_thread[thread]]
    for n, unseen in enumerate(fed):
        assert (unseen.token, unseen.place.segment, unseen.place.position) == (
            ids[n], segments[n], positions[n],
        )  # fmt: skip
    assert row.critical_path >= max(positions) + 1
    if ids.count(TAGS.parallel) == row.blocks:  # all forked
        assert row.critical_path == max(positions) + 1
    limits = row.limits
    assert len(ids) <= limits.max_new_tokens
    for path in (thread for thread in row.threads if thread.segment):
        assert not {*range(6), EOS} & {*path.ids[1 : path.begun]}
        assert 0 <= len(path.ids) - path.begun - 1 <= (limits.max_path_length or limits.max_new_tokens)


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.sampled_from(ids("[[](()))){}..aab\n\n12<>")), max_size=50),
    cycle=st.lists(st.sampled_from(ids("[](()))){}ab\nab")), min_size=1, max_size=7),
    limits=st.builds(
        Limits,
        max_new_tokens=st.integers(1, 90),
        paths=st.sampled_from([2, 3, "auto"]),
        max_paths=st.integers(2, 5),
        max_blocks=st.integers(0, 3),
        max_path_length=st.none() | st.integers(1, 6),
        path_opening=st.sampled_from(["none", "number", "plan"]),
        join=st.sampled_from(["all", "first"]),
    ),
)
def test_what_is_written_is_what_training_reads(tokens, cycle, limits):
    streams: dict[int, int] = defaultdict(int)
    drawn = iter(tokens)

    def choose(thread: Thread) -> int:
        streams[thread.segment] += 1
        return next(drawn, cycle[streams[thread.segment] % len(cycle)])

    check(decode(choose, limits))


WORDS = st.text("ab\n12<>", max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    paths=st.sampled_from([2, 3, "auto"]),
    opening=st.sampled_from(["number", "plan"]),
    blocks=st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=2, max_size=3), WORDS), max_size=3),
)
def test_any_response_is_forced_where_sft_masks_it_and_tokenised_as_sft_does(paths, opening, blocks):
    """Blocks whose paths close by themselves: text before, the texts of the paths, a summary."""
    scripts = {0: "".join(f"{before}[{summary}}}" for before, _, summary in blocks) + "."}
    for before, texts, _ in blocks:
        plan = plan_lines(before) if opening == "plan" else []
        asked = paths == "auto" and not plan
        count = min(4, len(plan)) if paths == "auto" and plan else len(texts) if asked else paths
        for number in range(1, count + 1):
            verdict = ("(" if number < count else "]") if asked and number > 1 else ""
            scripts[len(scripts)] = texts[(number - 1) % len(texts)] + ")" + verdict
    written = scripted(scripts, Limits(max_new_tokens=900, paths=paths, path_opening=opening))
    assert written.row.blocks == len(blocks)
    opener = Opener(opening, Letters())
    found = forced_tokens(written.ids, TAGS, paths=paths, opener=opener)
    assert found == [isnan(each) for each in written.logprobs]
    assert response_ids(Letters().decode(written.ids), Letters(), opener) == written.ids[:-1]


# --- with models -------------------------------------------------------------------------------------------

PLANNED = [prompt + "I divide.\n\n1 to 3\n4 to 6\n7 to 9\n" for prompt in PROMPTS[:4]]
"""Prompts whose response has begun with a plan."""


@pytest.fixture(scope="module")
def structured(make_model, tags):
    model = make_model(more={"<Parallel>": 3.0, "<|im_end|>": 2.5, "<Path>": 1.0, "</Path>": 1.0})
    attach_structure(model, tags)
    return model


@pytest.mark.parametrize("paths", [2, 4, "auto"])
@pytest.mark.parametrize("opening", ["number", "plan"])
def test_responses_score_as_sampled(structured, tokenizer, tags, paths, opening):
    limits = Limits(120, paths, path_opening=opening)
    prompts = PLANNED if opening == "plan" else PROMPTS
    decoder = ForkJoinDecoder(structured, tokenizer, limits=limits, sampling=Sampling(0.9), batch_size=7)
    answers = decoder.generate(prompts, seeds=SEEDS[: len(prompts)])
    gap = widest_gap(structured, encode(tokenizer, prompts), answers, temperature=0.9)
    assert gap <= 1e-4, f"{gap:.1e}"
    responses = flat(answers)
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    blocks = [(r, block) for r in responses for block in r.blocks]
    assert len(blocks) > 8
    opener = Opener(opening, tokenizer)
    opened = 0
    for response, block in blocks:
        for number, (start, _) in enumerate(block, 1):
            begun = opener.opening(["1 to 3", "4 to 6", "7 to 9"], number)
            if tuple(response.token_ids[start + 1 : start + 1 + len(begun)]) == begun != ():
                opened += 1
                assert all(response.forced[start + 1 : start + 1 + len(begun)])
            else:
                assert opening == "plan", "only a plan may be missing, or too short"
    assert opened > 8


@pytest.mark.parametrize("opening", ["number", "plan"])
def test_the_batch_changes_nothing(structured, tokenizer, opening):
    limits = Limits(70, "auto", path_opening=opening)
    found = [
        ForkJoinDecoder(structured, tokenizer, limits=limits, batch_size=size).generate(
            PLANNED[:2], seeds=SEEDS[:2]
        )
        for size in (1, 3, 64)
    ]
    assert ids_of(found[0]) == ids_of(found[1]) == ids_of(found[2])


@pytest.mark.parametrize("opening", ["none", "number"])
def test_what_is_forced_takes_no_pass_of_its_own(structured, tokenizer, opening):
    """`<Path>` and its opening go through the model with `<Parallel>`, what joins a block with the last
    `</Path>`: passes, which are what time is made of, are fewer than the tokens of the critical path."""
    limits = Limits(1000, 3, max_blocks=99, max_path_length=100, path_opening=opening)
    decoder = ForkJoinDecoder(structured, tokenizer, limits=limits)
    opened = len(decoder.opener.opening([], 1)) if decoder.opener else 0
    assert opened == (3 if opening == "number" else 0)
    blocks = 0
    for i in range(4):
        ((response,),) = decoder.generate(PROMPTS[:1], seed=i)
        assert not response.truncated
        assert max((stop - start for block in response.blocks for start, stop in block), default=0) < 100
        forced = len(response.blocks) * (1 + opened + len(decoder.tags.joint))
        assert decoder.steps == response.critical_path - forced - 1, "the last token goes through nothing"
        blocks += len(response.blocks)
    assert blocks >= 3


def of_three_sums(part: str) -> Iterator[dict[str, Any]]:
    split = search.read_split(part)
    return (row for row in (search.make_row(split, index) for index in count()) if row["level"] == 3)


@pytest.fixture(scope="module", params=["number", "plan"])
def divider(request, tmp_path_factory):
    """An opening, and a model that has learned with it to give each of three paths one of three sums.

    Trained, since random weights hardly look at what they are given: they write the same behind any opening.
    """
    opening, folder = request.param, tmp_path_factory.mktemp("divider")
    part = {"number": "which-coldstart-3", "plan": "which-plan-3"}[opening]
    traces = folder / "traces.jsonl"
    traces.write_text("".join(f"{json.dumps(row)}\n" for row in islice(of_three_sums(part), 224)))
    sft.run(
        config.resolve(
            "sft", recipe="tiny-search", dataset=str(traces), path_opening=opening, paths=3, max_steps=28,
            per_device_train_batch_size=8, threads=1, output_dir=folder / "sft",
        )
    )  # fmt: skip
    return opening, *load_model(str(folder / "sft"))


def test_greedy_siblings_differ_by_their_opening(divider):
    opening, model, tokenizer = divider
    asked = islice(of_three_sums("which-heldout-wide"), 12)
    prompts = [render_prompt(row["problem"], "bare") for row in asked]

    def chosen(opening: str) -> list[list[str]]:
        """What the model itself writes in the paths of each block: nothing that is forced, so no opening."""
        limits = Limits(200, 3, path_opening=opening)
        decoder = ForkJoinDecoder(model, tokenizer, limits=limits, sampling=Sampling(0.0))
        return [
            [
                tokenizer.decode([response.token_ids[at] for at in range(*path) if not response.forced[at]])
                for path in block
            ]
            for response in flat(decoder.generate(prompts))
            for block in response.blocks
        ]

    plain, opened = chosen("none"), chosen(opening)
    assert len(plain) >= 10
    assert all(len({*siblings}) == 1 for siblings in plain)
    assert len(opened) >= 10
    assert all(len({*siblings}) == 3 for siblings in opened)
    begun = [[path.partition(":")[0] for path in siblings] for siblings in opened]
    assert begun.count(["1", "2", "3"]) >= 8, "each path with the sum that is its own"


def test_the_decoder_takes_the_model_s_opening(make_model, tokenizer, tags):
    model = make_model()
    attach_structure(model, tags)
    assert ForkJoinDecoder(model, tokenizer).opener is None
    set_path_opening(model, "number")
    assert ForkJoinDecoder(model, tokenizer).opener.kind == "number"
    assert ForkJoinDecoder(model, tokenizer, limits=Limits(path_opening="none")).opener is None
    with pytest.raises(UsageError, match="raise it to 16"):
        ForkJoinDecoder(model, tokenizer, limits=Limits(15))


def test_causal_attention_forces_nothing(make_model, tokenizer):
    decoder = ForkJoinDecoder(make_model(), tokenizer, limits=Limits(40, path_opening="number"))
    assert not any(any(response.forced) for response in flat(decoder.generate(PROMPTS[:2], samples=3)))


def test_the_first_that_has_found_ends_its_block(structured, tokenizer, monkeypatch):
    """Scored as sampled, and alone as in a batch."""
    monkeypatch.setattr(forkjoin, "FOUND", "e")
    limits = Limits(110, 3, path_opening="number", join="first")
    decoder = ForkJoinDecoder(structured, tokenizer, limits=limits, batch_size=7)
    answers = decoder.generate(PROMPTS, seeds=SEEDS)
    assert widest_gap(structured, encode(tokenizer, PROMPTS), answers) <= 1e-4
    alone = ForkJoinDecoder(structured, tokenizer, limits=limits, batch_size=1)
    assert ids_of(alone.generate(PROMPTS[:2], seeds=SEEDS[:2])) == ids_of(answers[:2])
    cut = 0
    for response in flat(answers):
        for block in response.blocks:
            lengths = [stop - start for start, stop in block]
            found = [
                length
                for (start, stop), length in zip(block, lengths, strict=True)
                if "e" in tokenizer.decode(response.token_ids[start + 4 : stop - 1])
            ]
            if found:  # all began together, so none is longer than the one that ended the block, but by a tag
                assert max(lengths) <= max(found) + 1
                cut += sum(response.forced[stop - 1] for _, stop in block)
    assert cut > 5


@pytest.mark.parametrize(("main", "paths"), [(0.7, 1.3), (0.0, 1.0), (1.0, 0.0)])
def test_paths_have_a_temperature_of_their_own(structured, tokenizer, main, paths):
    def decode(sampling: Sampling) -> list[list[Any]]:
        decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(90, 3), sampling=sampling)
        return decoder.generate(PROMPTS[:3], seeds=SEEDS[:3])

    answers = decode(Sampling(main, path_temperature=paths))
    for prompt, group in zip(encode(tokenizer, PROMPTS[:3]), answers, strict=True):
        for response in group:
            in_path = torch.zeros(len(response.token_ids), dtype=torch.bool)
            for start, stop in chain(*response.blocks):
                in_path[start:stop] = True
            for chosen, temperature in ((in_path, paths), (~in_path, main)):
                own, sampled = scores(structured, prompt, response, temperature or 1.0)
                assert torch.where(chosen, own - sampled, 0).abs().nan_to_num(0).max() <= 1e-4
    plain = decode(Sampling(main))
    assert ids_of(plain) != ids_of(answers)
    assert ids_of(decode(Sampling(main, path_temperature=main))) == ids_of(plain)


def test_greedy_is_greedy_in_paths_too():
    told = SimpleNamespace(temperature=1.0, top_p=None, top_k=None, min_p=None, path_temperature=0.7)
    assert Sampling.of(told) == Sampling(1.0, path_temperature=0.7)
    assert Sampling.of(told, temperature=0.0) == Sampling(0.0)
    with pytest.raises(UsageError, match="path_temperature -1 must be 0"):
        Sampling(path_temperature=-1)
    with pytest.raises(UsageError, match="join 'last' must be 'all' or 'first'"):
        Limits(join="last")


# --- tokenizers --------------------------------------------------------------------------------------------

HOSTILE = st.lists(
    st.sampled_from(
        ["a", "\n", "1", "<|im_end|>", "<|im_start|>", "<Path>", "</Path", ">", "<", "|", "é", "🙂"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(text=HOSTILE, ids=st.lists(st.integers(0, 5000), max_size=40))
def test_no_line_becomes_a_control_token(tokenizer, text, ids):
    opener = Opener("plan", tokenizer)
    control = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(list(SPELLED))}
    for plan in ([text, "b"], opener.plan(ids)):
        for number in (1, 2, 3):
            assert not control & {*opener.opening(plan, number)}
    opener.plan([*ids, 10**9 % len(tokenizer)])


def test_what_is_decoded_is_parsed_as_opened(structured, tokenizer):
    decoder = ForkJoinDecoder(structured, tokenizer, limits=Limits(120, 3, path_opening="number"))
    for response in flat(decoder.generate(PROMPTS[:2], samples=4)):
        for block in parse(response.text, opening="number").blocks[:1]:
            if len(block.paths) == 3 and response.blocks:
                assert [path.opening for path in block.paths] == ["1", "2", "3"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(ids("[[](()))){}{}aab\n\n\n12")), max_size=40),
    st.sampled_from(["number", "plan"]),
)
def test_the_text_is_read_as_the_tokens_are(written, opening):
    """What a path of a block was to begin with is one line, whether ids or their text are asked."""
    reader, lines = Reader(TAGS, Opener(opening, Letters())), []
    for token in written:
        began = reader.is_open and token == TAGS.path
        reader.read(token)
        if began:
            lines.append(reader.opening(reader.paths - reader.first + 1))
    text = Letters().decode(written)
    trace = parse(text)
    opened = []
    for block, plan in with_plans(trace, opening):
        numbers = range(1, 1 + len(block.paths))
        opened += [opening_text(lines_of(opening, plan, number)) for number in numbers]
    assert [Letters().decode(each) for each in lines] == opened
