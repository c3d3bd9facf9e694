"""What a response becomes when threads are given scripted tokens. No model."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import isnan
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.decoding.threads import Limits, Row, Thread, Unseen
from prl.errors import UsageError
from prl.structure import Tags, forced_tokens, read_structure
from prl.structure.reader import Place, Reader

LETTERS = "[](){}.ab\n"
"""One letter a token: [ ] for <Parallel>, ( ) for <Path>, { } for <Summary>; the period ends the response."""
EOS = LETTERS.index(".")
TAGS = Tags(*range(6), glue=(LETTERS.index("\n"),))


def ids_of(written: str) -> list[int]:
    return [LETTERS.index(letter) for letter in written]


@dataclass
class Written:
    """A finished row, with what was fed to the model and what was drawn for each log-probability."""

    row: Row
    fed: list[Unseen] = field(default_factory=list)
    drawn: dict[float, int] = field(default_factory=dict)
    seen: list[tuple[int, int]] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [token for thread in self.row.threads for token in thread.ids]

    @property
    def text(self) -> str:
        return "".join(LETTERS[i] for i in self.ids)

    @property
    def logprobs(self) -> list[float]:
        return [logprob for thread in self.row.threads for logprob in thread.logprobs]

    @property
    def forced(self) -> str:
        return "".join("^" if isnan(logprob) else " " for logprob in self.logprobs).rstrip()


def decode(choose: Callable[[Thread], int], limits: Limits, prompt: str = "") -> Written:
    """What the decoder does with one row, the model's choices being `choose`."""
    reader = Reader(TAGS)
    for token in ids_of(prompt):
        reader.read(token)
    seen: list[tuple[int, int]] = []
    row = Row(
        3,
        5,
        reader=reader,
        slots=len(prompt),
        seed=0,
        limits=limits,
        eos_token_id=EOS,
        on_token=lambda prompt, sample, segment, token: seen.append((segment, token)),
    )
    written = Written(row, seen=seen, prompt=ids_of(prompt))
    numbers = count()

    def take(thread: Thread) -> None:
        logprob = -float(next(numbers))
        token = choose(thread)
        written.drawn[logprob] = token
        row.take(thread, token, logprob)

    take(row.main)
    while not row.is_finished:
        threads = dict.fromkeys(unseen.thread for unseen in row.unseen if unseen.thread.is_live)
        assert threads, "a row that is not finished goes on"
        written.fed += row.unseen
        row.unseen.clear()
        for thread in threads:
            take(thread)
    written.fed += row.unseen
    return written


def scripted(scripts: dict[int, str], limits: Limits, prompt: str = "") -> Written:
    """Each segment says what its script says; after that it goes on with "a"."""
    streams = {segment: iter(script) for segment, script in scripts.items()}
    return decode(
        lambda thread: LETTERS.index(next(streams.get(thread.segment, iter("")), "a")), limits, prompt
    )


CASES = {
    "no block": (dict(), {0: "ab."}, "ab.", ""),
    "fork and join": (
        dict(),
        {0: "a[b}.", 1: "ab)", 2: "bb)"},
        "a[(ab)(bb)]\n{b}.",
        "  ^   ^   ^^^",
    ),
    "a short path waits for the long one": (
        dict(),
        {0: "[b.", 1: ")", 2: "aabb)"},
        "[()(aabb)]\n{b.",
        " ^ ^     ^^^",
    ),
    "the second path is done first": (
        dict(),
        {0: "[b.", 1: "aabb)", 2: ")"},
        "[(aabb)()]\n{b.",
        " ^     ^ ^^^",
    ),
    "two blocks": (
        dict(),
        {0: "[a}[b.", 1: "a)", 2: "b)", 3: "b)", 4: "a)"},
        "[(a)(b)]\n{a}[(b)(a)]\n{b.",
        " ^  ^  ^^^   ^  ^  ^^^",
    ),
    "the end of the response in a path closes the path": (
        dict(),
        {0: "[.", 1: "a.", 2: "b)"},
        "[(a)(b)]\n{.",
        " ^ ^^  ^^^",
    ),
    "<Path> in a path closes it": (dict(), {0: "[.", 1: "a(", 2: "b)"}, "[(a)(b)]\n{.", " ^ ^^  ^^^"),
    "</Parallel> in a path closes it": (dict(), {0: "[.", 1: "a]", 2: "b)"}, "[(a)(b)]\n{.", " ^ ^^  ^^^"),
    "other tags in a path are text": (
        dict(),
        {0: "[.", 1: "[{})", 2: "b)"},
        "[([{})(b)]\n{.",
        " ^    ^  ^^^",
    ),
    "the length of a path": (
        dict(max_path_length=2),
        {0: "[.", 1: "aaaa", 2: "b)"},
        "[(aa)(b)]\n{.",
        " ^  ^^  ^^^",
    ),
    "a path that ends by itself at its length": (
        dict(max_path_length=2),
        {0: "[.", 1: "a)", 2: "bbb"},
        "[(a)(bb)]\n{.",
        " ^  ^  ^^^^",
    ),
    "equal shares of the room": (
        dict(max_new_tokens=21),
        {0: "a[", 1: "bbbbbbbbb", 2: ")"},
        "a[(bbbbbb)()]\n{aaaaaa",
        "  ^      ^^ ^^^",
    ),
    "the smallest block": (
        dict(max_new_tokens=10),
        {0: "[", 1: "bb", 2: "bb"},
        "[(b)(b)]\n{",
        " ^ ^^ ^^^^",
    ),
    "one token less than the smallest block: text": (
        dict(max_new_tokens=9),
        {0: "[(b)(b)]{b"},
        "[(b)(b)]{",
        "",
    ),
    "no blocks allowed": (dict(max_blocks=0), {0: "[(a)(b)]\n{b}."}, "[(a)(b)]\n{b}.", ""),
    "one block allowed, the second is text": (
        dict(max_blocks=1),
        {0: "[a[(b)(a)]{.", 1: ")", 2: ")"},
        "[()()]\n{a[(b)(a)]{.",
        " ^ ^ ^^^",
    ),
    "stray tags are text": (dict(), {0: "])({}a."}, "])({}a.", ""),
    "a block that did not fork does not fork later": (
        dict(max_blocks=0),
        {0: "[a[(b[b)]."},
        "[a[(b[b)].",
        "",
    ),
    "four paths": (
        dict(paths=4),
        {0: "[.", 1: "a)", 2: "b)", 3: "ab)", 4: ")"},
        "[(a)(b)(ab)()]\n{.",
        " ^  ^  ^   ^ ^^^",
    ),
    "auto: the model ends the block": (
        dict(paths="auto"),
        {0: "[.", 1: "a)", 2: "b)]"},
        "[(a)(b)]\n{.",
        " ^  ^   ^^",
    ),
    "auto: a third path": (
        dict(paths="auto"),
        {0: "[.", 1: "a)", 2: "b)(", 3: "ab)]"},
        "[(a)(b)(ab)]\n{.",
        " ^  ^       ^^",
    ),
    "auto: a third path beside the first, which ends last": (
        dict(paths="auto"),
        {0: "[.", 1: "aaaaaa)", 2: "b)(", 3: "b)]"},
        "[(aaaaaa)(b)(b)]\n{.",
        " ^       ^      ^^",
    ),
    "auto: what is no tag ends the block": (
        dict(paths="auto"),
        {0: "[.", 1: "a)", 2: "b)a"},
        "[(a)(b)]\n{.",
        " ^  ^  ^^^",
    ),
    "auto: the end of the response ends the block, not the response": (
        dict(paths="auto"),
        {0: "[b.", 1: "a)", 2: "b)."},
        "[(a)(b)]\n{b.",
        " ^  ^  ^^^",
    ),
    "auto: as many paths as are allowed, then no question": (
        dict(paths="auto", max_paths=3),
        {0: "[.", 1: ")", 2: ")(", 3: ")(((("},
        "[()()()]\n{.",
        " ^ ^   ^^^",
    ),
    "auto: two paths allowed, no question": (
        dict(paths="auto", max_paths=2),
        {0: "[.", 1: ")", 2: ")(((("},
        "[()()]\n{.",
        " ^ ^ ^^^",
    ),
    "auto: the last path was closed for it, no question": (
        dict(paths="auto"),
        {0: "[.", 1: "a)", 2: "b.((("},
        "[(a)(b)]\n{.",
        " ^  ^ ^^^^",
    ),
    "auto: the first path is never asked": (
        dict(paths="auto"),
        {0: "[.", 1: ")(((", 2: "bb)]"},
        "[()(bb)]\n{.",
        " ^ ^    ^^",
    ),
    "auto: a later path has the room that each had": (
        dict(paths="auto", max_paths=3, max_path_length=2),
        {0: "[.", 1: "aaa", 2: "b)(", 3: "bbbb"},
        "[(aa)(b)(bb)]\n{.",
        " ^  ^^     ^^^^",
    ),
}


@pytest.mark.parametrize(("limits", "scripts", "text", "forced"), CASES.values(), ids=CASES)
def test_what_is_written(limits, scripts, text, forced):
    written = scripted(scripts, Limits(**{"max_new_tokens": 60, **limits}))
    assert (written.text, written.forced) == (text, forced)
    check(written)


@pytest.mark.parametrize(
    ("prompt", "script", "text"),
    [
        ("a[(", "a)]{b.", "a)]{b."),
        ("a[(aa)(b", "b)]a[", "b)]a[(aaaaaa)(aaaaaa)]\n{"),
        ("[(a)(aaa)(", "b.", "b."),  # shorter than the paths before it: waits for nobody
        ("[", "[(a)(b)].", "[(a)(b)]."),
        ("[]", "[", "[(aaaaaaaa)(aaaaaaaa)]\n{"),
        ("](", "a.", "a."),
    ],
)
def test_a_prompt_that_opened_the_response(prompt, script, text):
    written = scripted({0: script}, Limits(max_new_tokens=24), prompt)
    assert written.text == text
    check(written)


@pytest.mark.parametrize("paths", [2, "auto"])
def test_sft_masks_what_is_forced(paths):
    """A response of the canonical layout: what the decoder inserts is what the cold start does not train."""
    written = scripted(
        {0: "a[b}b.", 1: "ab)", 2: "b)" + "(" * (paths == "auto"), 3: "b)]"}, Limits(paths=paths)
    )
    assert forced_tokens(written.ids, TAGS, paths=paths) == [isnan(each) for each in written.logprobs]


TEXT = st.text("ab\n", max_size=3)


@settings(max_examples=100, deadline=None)
@given(
    paths=st.sampled_from([2, 3, "auto"]),
    blocks=st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=3), TEXT), max_size=3),
)
def test_any_response_is_forced_where_sft_masks_it(paths, blocks):
    """Blocks whose paths close by themselves: text before, the texts of the paths, a summary."""
    scripts = {0: "".join(f"{before}[{summary}}}" for before, _, summary in blocks) + "."}
    for _, texts, _ in blocks:
        count = len(texts) if paths == "auto" else paths
        for number in range(1, count + 1):
            verdict = ("(" if number < count else "]") if paths == "auto" and number > 1 else ""
            scripts[len(scripts)] = texts[(number - 1) % len(texts)] + ")" + verdict
    written = scripted(scripts, Limits(max_new_tokens=400, paths=paths))
    assert written.text.count("[") == written.row.blocks == len(blocks)
    assert forced_tokens(written.ids, TAGS, paths=paths) == [isnan(each) for each in written.logprobs]


@pytest.mark.parametrize("paths", [2, 3, 4, "auto"])
@pytest.mark.parametrize("script", ["a", "[", "[(", "a[)", "[a]", "[b)("])
def test_no_budget_is_exceeded(paths, script):
    """Each number of tokens up to the smallest block and beyond is used up to the last one."""
    for budget in range(1, 40):
        written = decode(
            lambda thread: LETTERS.index(script[len(thread.ids) % len(script)]),
            Limits(max_new_tokens=budget, paths=paths),
        )
        assert len(written.ids) == budget
        check(written)


PATHS = st.sampled_from([2, 3, 4, "auto"])


@settings(max_examples=400, deadline=None)
@given(
    tokens=st.lists(st.sampled_from(ids_of("[[](()))){}..aab\n")), max_size=40),
    cycle=st.lists(st.sampled_from(ids_of("[](()))){}abab")), min_size=1, max_size=7),
    prompt=st.text(LETTERS.replace(".", ""), max_size=12),
    limits=st.builds(
        Limits,
        max_new_tokens=st.integers(1, 70),
        paths=PATHS,
        max_paths=st.integers(2, 5),
        max_blocks=st.integers(0, 3),
        max_path_length=st.none() | st.integers(1, 6),
    ),
)
def test_what_is_written_is_what_training_reads(tokens, cycle, prompt, limits):
    streams: dict[int, int] = defaultdict(int)
    drawn = iter(tokens)

    def choose(thread: Thread) -> int:
        streams[thread.segment] += 1
        return next(drawn, cycle[streams[thread.segment] % len(cycle)])

    check(decode(choose, limits, prompt))


def blocks_begun(ids: list[int]) -> int:
    begun, is_open = 0, False
    for token in ids:
        begun += token == TAGS.parallel and not is_open
        is_open = token == TAGS.parallel or (is_open and token != TAGS.end_parallel)
    return begun


def test_a_block_that_did_not_fork_is_waited_for_token_by_token():
    text = "a[(bbb)(bb)]\n{a}."
    written = decode(lambda thread: LETTERS.index(text[len(thread.ids)]), Limits(max_blocks=0))
    assert (written.text, written.row.blocks) == (text, 0)
    assert written.row.critical_path == len(text)
    forked = scripted({0: "a[a}.", 1: "bbb)", 2: "bb)"}, Limits(max_new_tokens=60))
    assert forked.text == text
    assert forked.row.critical_path == len(text) - len("(bb)")


def check(written: Written) -> None:
    """What holds for every row, whatever the model says."""
    row, ids, prompt = written.row, written.ids, written.prompt
    structure = read_structure(torch.tensor([[*prompt, *ids]]), TAGS)
    segments, horizons, positions = (field[0].tolist() for field in structure[:3])

    # The model is fed every token but the one that ends the response, as the structure has it.
    by_thread: dict[Thread, list[Unseen]] = defaultdict(list)
    for unseen in written.fed:
        by_thread[unseen.thread].append(unseen)
    fed = [unseen for thread in row.threads for unseen in by_thread[thread]]
    ended = ids[-1] == EOS and row.threads[-1].segment == 0
    assert [unseen.token for unseen in fed] == (ids[:-1] if ended else ids)
    most = max(segments, default=0)
    for n, unseen in enumerate(fed, start=len(prompt)):
        assert unseen.place.segment == segments[n]
        assert unseen.place.position == positions[n]
        assert min(unseen.place.horizon, most + 1) == min(horizons[n], most + 1)
    deepest = max(positions) - max(positions[: len(prompt)], default=-1)
    assert row.critical_path >= deepest
    if blocks_begun(prompt) == 0 and blocks_begun(ids) == row.blocks:
        assert row.critical_path == deepest

    # Nobody saw what was not written yet: slots are in the order of feeding.
    order = {id(unseen): slot for slot, unseen in enumerate(written.fed)}
    for thread in row.threads:
        slots = [order[id(unseen)] for unseen in by_thread[thread]]
        assert slots == sorted(slots)

    # The budget is used up, or the model ended the response.
    limits = row.limits
    assert len(ids) <= limits.max_new_tokens
    assert ended or len(ids) == limits.max_new_tokens
    forks = [thread for thread in row.threads if thread.segment and thread.segment == thread.place.horizon]
    assert row.blocks == len(forks) <= limits.max_blocks
    paths = [thread for thread in row.threads if thread.segment]
    for fork in forks:
        block = [path for path in paths if path.place.horizon == fork.segment]
        first_paths = 2 if limits.paths == "auto" else limits.paths
        assert first_paths <= len(block) <= limits.most_paths
        assert len({path.place.position - len(path.ids) for path in block}) == 1, "all start together"
    for path in paths:
        assert path.ids[0] == TAGS.path
        assert path.ids[-1] == TAGS.end_path
        assert not {TAGS.path, TAGS.end_path, TAGS.end_parallel, EOS} & set(path.ids[1:-1])
        assert len(path.ids) - 2 <= (limits.max_path_length or limits.max_new_tokens)

    # What is not forced was drawn, and each token is reported once, in the order of its thread.
    for token, logprob in zip(ids, written.logprobs, strict=True):
        assert isnan(logprob) or written.drawn[logprob] == token
    told = sorted(written.seen, key=lambda each: each[0])
    flat = [(thread.segment, token) for thread in row.threads for token in thread.ids]
    assert told == sorted(flat, key=lambda each: each[0])


def test_a_token_counts_from_where_its_thread_is():
    """The index that a thread's next token is drawn with never comes twice."""
    written = scripted({0: "ab[a}[", 1: "a)", 2: ")", 3: "a)", 4: ")"}, Limits(max_new_tokens=40))
    drawn = [
        (thread.segment, thread.offset + index)
        for thread in written.row.threads
        for index in range(len(thread.ids))
    ]
    assert len(set(drawn)) == len(drawn)


def test_places_of_a_block():
    written = scripted({0: "[.", 1: "a)", 2: "bb)"}, Limits())
    main = Reader(TAGS).read(TAGS.path).horizon
    assert [unseen.place for unseen in written.fed] == [
        Place(0, main, 0),
        Place(1, 1, 1),
        Place(2, 1, 1),
        Place(1, 1, 2),
        Place(2, 1, 2),
        Place(1, 1, 3),
        Place(2, 1, 3),
        Place(2, 1, 4),
        *(Place(0, main, position) for position in (5, 6, 7)),
    ]
    assert written.row.critical_path == 9


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (dict(paths="3"), r"paths '3' must be a whole number from 2, or 'auto'"),
        (dict(paths=1), "paths 1 must be"),
        (dict(paths=True), "paths True must be"),
        (dict(paths=2.0), "paths 2.0 must be"),
        (dict(paths=None), "paths None must be"),
        (dict(max_new_tokens=0), "max_new_tokens 0 must be 1 or more"),
        (dict(max_paths=1), "max_paths 1 must be 2 or more"),
        (dict(max_blocks=-1), "max_blocks -1 must be 0 or more"),
        (dict(max_path_length=0), "max_path_length 0 must be 1 or more"),
        (dict(paths=0, max_blocks=-1), "paths 0 .*; max_blocks -1"),
    ],
)
def test_faulty_limits(fields, fault):
    with pytest.raises(UsageError, match=fault) as raised:
        Limits(**fields)
    assert "\n" not in str(raised.value)


def test_limits_of_a_command():
    settings = SimpleNamespace(paths="3", max_paths=4, max_blocks=2, max_path_length=None)
    assert Limits.of(settings, 64) == Limits(64, 3, 4, 2, None)
    settings.paths = "auto"
    assert Limits.of(settings, 64).paths == "auto"


def test_no_torch():
    """Importing the package brings torch, this file by itself does not."""
    code = (
        "import runpy, sys; sys.modules['torch'] = None; import prl.errors;"
        "import importlib.util as u; s = u.spec_from_file_location('threads', sys.argv[1]);"
        "m = u.module_from_spec(s); sys.modules['threads'] = m; s.loader.exec_module(m); print(m.Limits())"
    )
    import prl.decoding.threads as threads

    done = subprocess.run([sys.executable, "-c", code, threads.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
