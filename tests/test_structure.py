"""Structure from token ids: a slow reading of the rules, token by token, and the fast one beside it."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from prl import tiny
from prl.errors import ModelError
from prl.grammar import TAGS, parse_ids
from prl.prompts import render_prompt, render_response
from prl.structure import Tags, forced_tokens, path_window_mask, read_structure, structural_positions
from slow_structure import read_slowly, sees

BARE = Tags(*range(6))
H, S = 6, 7  # the header is these two tokens; text is 8 and 9
WITH_HEADER = Tags(*range(6), header=(H, S))
WITH_TURNS = Tags(*range(6), header=(H, S), next_turn=(9, H, S))  # a turn ends with b
NAMES = {"[": 0, "]": 1, "(": 2, ")": 3, "{": 4, "}": 5, "H": H, "S": S, "a": 8, "b": 9, "\n": 8}
"""One letter a token: [ ] for <Parallel>, ( ) for <Path>, { } for <Summary>."""


def ids_of(written: str) -> list[int]:
    return [NAMES[letter] for letter in written]


# --- the rules, read slowly and fast -----------------------------------------------------------------------


class Row(NamedTuple):
    """A row of a batch: sequences, with padding before and after."""

    sequences: list[list[int]]
    left: int = 0
    right: int = 0
    pad: int = 2  # the id of `<Path>`: padding must not be read, whatever its id

    @property
    def ids(self) -> list[int]:
        return [self.pad] * self.left + [i for ids in self.sequences for i in ids] + [self.pad] * self.right

    @property
    def numbers(self) -> list[int]:
        """Which sequence each token belongs to; numbers need not be in order, only differ from the last."""
        lengths = [len(ids) for ids in self.sequences]
        lengths[0] += self.left
        lengths[-1] += self.right
        return [n % 2 for n, length in enumerate(lengths) for _ in range(length)]

    @property
    def padding_mask(self) -> list[int]:
        return [0] * self.left + [1] * sum(map(len, self.sequences)) + [0] * self.right


def check(rows: list[Row], tags: Tags, window: int | None = None) -> None:
    """The fast reading of a batch against the slow one of each of its sequences."""
    ids = torch.tensor([row.ids for row in rows])
    padding = torch.tensor([row.padding_mask for row in rows])
    numbers = torch.tensor([row.numbers for row in rows])
    arguments: tuple[Any, ...] = (ids, tags, padding, numbers)
    if padding.all():
        arguments = (ids, tags, None, numbers)
    if not numbers.any():
        arguments = arguments[:3]
    structure = read_structure(*arguments)
    mask = path_window_mask(*arguments, window=window)
    length = ids.shape[1]
    assert mask.shape == (len(rows), 1, length, length)
    assert mask.dtype == torch.bool
    assert all(field.shape == ids.shape and field.dtype == torch.int64 for field in structure)
    assert torch.equal(structural_positions(*arguments), structure.positions)
    for b, row in enumerate(rows):
        expected = torch.eye(length, dtype=torch.bool)  # padding sees itself
        start = row.left
        for sequence in row.sequences:
            tokens = read_slowly(sequence, tags)
            span = slice(start, start + len(sequence))
            assert structure.positions[b, span].tolist() == [token.position for token in tokens]
            assert structure.segments[b, span].tolist() == [token.path for token in tokens]
            assert (structure.sequences[b, span] == start).all()
            horizons = structure.horizons[b, span]
            for token, horizon in zip(tokens, horizons.tolist(), strict=True):
                if token.block is None:
                    assert horizon > max(t.path for t in tokens)
                else:
                    assert horizon == min(t.path for t in tokens if t.block == token.block)
            for q in range(len(sequence)):
                for k in range(len(sequence)):
                    expected[start + q, start + k] = sees(tokens, q, k, window)
            start += len(sequence)
        assert torch.equal(mask[b, 0], expected)
        is_padding = torch.tensor(row.padding_mask) == 0
        assert (structure.sequences[b, is_padding] == -1).all()
        assert (structure.segments[b, is_padding] == 0).all()


# --- any ids whatever -------------------------------------------------------------------------------------

# Weighted towards ids that make blocks: uniform ones seldom get to a second path.
TOKENS = st.one_of(st.sampled_from([0, 1, 2, 2, 3, 8]), st.integers(0, 9))
FREE = st.lists(TOKENS, min_size=1, max_size=24)
BLOCKS = st.lists(
    st.sampled_from(["[", "]", "(a", "(ab)", "()", "{a}", "a", "HS"]), min_size=1, max_size=10
).map(lambda parts: ids_of("".join(parts)))


@st.composite
def nearly_valid(draw: st.DrawFn) -> list[int]:
    """Blocks of uneven paths, with a token replaced or the end cut off."""
    ids: list[int] = []
    for _ in range(draw(st.integers(1, 3))):
        paths = [[2, *[8] * draw(st.integers(0, 6)), 3] for _ in range(draw(st.integers(1, 3)))]
        ids += [8, 0, *chain(*paths), 1]
    if draw(st.booleans()):
        ids[draw(st.integers(0, len(ids) - 1))] = draw(TOKENS)
    return ids[: draw(st.integers(1, len(ids)))] if draw(st.booleans()) else ids


RESPONSES = st.one_of(FREE, BLOCKS, nearly_valid())
SEQUENCES = st.one_of(RESPONSES, RESPONSES.map(lambda ids: [8, H, S, *ids]))
HEADERS = st.sampled_from([BARE, WITH_HEADER])
WINDOWS = st.one_of(st.none(), st.integers(1, 6))


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    rows = draw(st.lists(st.lists(SEQUENCES, min_size=1, max_size=3), min_size=1, max_size=3))
    lengths = [sum(map(len, row)) for row in rows]
    length = max(lengths) + draw(st.integers(0, 3))
    lefts = [draw(st.integers(0, length - used)) for used in lengths]
    pad = draw(st.integers(0, 9))
    return [
        Row(row, left, length - used - left, pad)
        for row, left, used in zip(rows, lefts, lengths, strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(batches(), HEADERS, WINDOWS)
def test_batches_are_read_as_each_sequence_alone(rows: list[Row], tags: Tags, window: int | None) -> None:
    check(rows, tags, window)


@settings(max_examples=300, deadline=None)
@given(SEQUENCES, HEADERS)
def test_more_tokens_never_change_what_was_said_of_those_before(ids: list[int], tags: Tags) -> None:
    whole = read_structure(torch.tensor([ids]), tags)
    mask = path_window_mask(torch.tensor([ids]), tags)
    for t in range(1, len(ids) + 1):
        prefix = read_structure(torch.tensor([ids[:t]]), tags)
        assert torch.equal(prefix.positions, whole.positions[:, :t])
        assert torch.equal(prefix.segments, whole.segments[:, :t])
        assert torch.equal(prefix.sequences, whole.sequences[:, :t])
        in_path = prefix.segments > 0
        assert torch.equal(prefix.horizons[in_path], whole.horizons[:, :t][in_path])
        assert torch.equal(path_window_mask(torch.tensor([ids[:t]]), tags), mask[..., :t, :t])


@settings(max_examples=200, deadline=None)
@given(SEQUENCES)
def test_no_token_sees_a_position_above_its_own(ids: list[int]) -> None:
    """To a path of a first block, what it sees is an ordinary sequence."""
    positions = structural_positions(torch.tensor([ids]), BARE)[0]
    mask = path_window_mask(torch.tensor([ids]), BARE)[0, 0]
    horizons = read_structure(torch.tensor([ids]), BARE).horizons[0]
    for q in range(len(ids)):
        seen = positions[mask[q]].tolist()
        assert max(seen) == seen[-1] == positions[q]
        if horizons[q] == 1:
            assert seen == list(range(len(seen)))


# --- by hand ----------------------------------------------------------------------------------------------

# tokens, the path of each, the position of each (one digit a token)
EXAMPLES = {
    "a whole trace": (
        "aa[(ab)(b)]a{b}a",
        "0001111222000000",
        "012" + "3456" + "345" + "789abc",
    ),
    "two blocks: the second's paths see the first's": (
        "[(a)(a)]{b}[(b)(bb)]{a}",
        "01112220000033344440000",
        "0" + "123" + "123" + "4567" + "8" + "9ab" + "9abc" + "def0",
    ),
    "a long path, then a block of short ones": (
        "[(abab)(a)][()(a)]a",
        "0111111222" + "0" + "0" + "33444" + "00",
        "0" + "123456" + "123" + "7" + "8" + "9a" + "9ab" + "cd",
    ),
    "plain text": ("aabba", "00000", "01234"),
    "cut off in the second path": ("a[(ab)(b", "00111122", "01234523"),
    "cut off before any path": ("a[", "00", "01"),
    "cut off after a path": ("a[(b)", "00111", "01234"),
    "glue after </Path> belongs to the path": ("[(a)b(b)]", "011112220", "012341235"),
    "a path that never closes": ("[(ab(b]a", "01112200", "01231245"),
    "text before the first path is main thread": ("[ab(a)(b)]", "0001112220", "0123453456"),
    "a block without a path": ("[ab]a", "00000", "01234"),
    "an empty block": ("[]a", "000", "012"),
    "one path": ("[(ab)]a", "0111100", "0123456"),
    "a nested <Parallel> is text, and the inner closer ends the block": (
        "[(a[(b)]a)]",
        "01112220000",
        "0" + "123" + "123" + "4567",
    ),
    "stray tags are text": (")]a(b){a}", "000000000", "012345678"),
    "an empty path": ("[()()]", "011220", "012123"),
    "the first path the longest": ("[(abb)(a)]b", "01111122200", "01234512367"),
    "the last path the longest": ("[(a)(abb)]b", "01112222200", "0" + "123" + "12345" + "67"),
}


@pytest.mark.parametrize(("written", "paths", "positions"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_by_hand(written: str, paths: str, positions: str) -> None:
    structure = read_structure(torch.tensor([ids_of(written)]), BARE)
    assert "".join(f"{number:x}" for number in structure.segments[0]) == paths
    assert "".join(f"{number:x}"[-1] for number in structure.positions[0]) == positions
    check([Row([ids_of(written)])], BARE)


def test_the_mask_by_hand() -> None:
    picture = """
        a #
        [ ##
        ( ###
        b ####
        ( ##..#
        a ##..##
        ] #######
        a ########
    """
    rows = [line.split() for line in picture.strip().splitlines()]
    mask = path_window_mask(torch.tensor([ids_of("".join(name for name, _ in rows))]), BARE)
    assert ["".join(".#"[seen] for seen in row).rstrip(".") for row in mask[0, 0].tolist()] == [
        seen for _, seen in rows
    ]


def test_a_window_counts_positions_not_columns() -> None:
    mask = path_window_mask(torch.tensor([ids_of("aa[(bbb)(a)]a")]), BARE, window=3)[0, 0]
    second = 8  # the second `<Path>`, at position 3: five columns after `<Parallel>`, one position
    assert mask[second].nonzero().flatten().tolist() == [1, 2, 8]
    after = 11  # `</Parallel>`, at position 8
    assert mask[after].nonzero().flatten().tolist() == [6, 7, 11]


HEADERED = {
    "no header: all is prompt": ("[(a)(b)]", False),
    "header: what follows is response": ("HS[(a)(b)]", True),
    "tags quoted in the prompt open nothing": ("a[(a)HS[(a)(b)]", True),
    "a prompt that ends in an open block": ("[(HS(b)(a)", False),
    "half a header": ("H[(a)(b)]", False),
    "a header in two pieces": ("HaS[(a)(b)]", False),
    "the first header counts, another is text": ("HS[(aHSa)(b)]", True),
    "an overlapping start": ("HHS[(a)(b)]", True),
    "a header at the very end": ("[(a)HS", False),
}


@pytest.mark.parametrize(("written", "is_structured"), HEADERED.values(), ids=HEADERED.keys())
def test_only_the_response_is_structure(written: str, is_structured: bool) -> None:
    ids = ids_of(written)
    assert read_structure(torch.tensor([ids]), WITH_HEADER).segments.any() == is_structured
    check([Row([ids])], WITH_HEADER)
    check([Row([ids], left=2)], WITH_HEADER)


TURNS = {
    "an earlier turn is prompt": ("HS[(a)(a)]bHSa", False),
    "the last turn is the response": ("HSa[(a)bHS[(a)(a)]", True),
    "a turn between them quotes the tags": ("HSab[(a)bHSa", False),
    "a header that ends no turn is text": ("HS[(aHSa)(a)]", True),
    "a turn that begins at the very end": ("HS[(a)(a)]bHS", False),
    "half a turn": ("HS[(a)(a)]bH", True),
}


@pytest.mark.parametrize(("written", "is_structured"), TURNS.values(), ids=TURNS.keys())
def test_of_several_turns_the_last_is_structure(written: str, is_structured: bool) -> None:
    ids, other = ids_of(written), ids_of("HS[(a)(a)]bHS[(aa)(a)]a")
    assert read_structure(torch.tensor([ids]), WITH_TURNS).segments.any() == is_structured
    check([Row([ids], left=2)], WITH_TURNS)
    check([Row([ids, other, ids], right=1)], WITH_TURNS)
    check([Row([other, ids])], WITH_TURNS)


def test_a_header_that_packing_cuts_is_none() -> None:
    """Neither at a boundary between sequences, nor across padding that happens to hold its first token."""
    cut = [ids_of("aH"), ids_of("S[(a)(b)]")]
    check([Row(cut)], WITH_HEADER)
    row = torch.tensor([[i for ids in cut for i in ids]])
    assert read_structure(row, WITH_HEADER).segments.any(), "as one sequence it is a header"
    numbers = torch.tensor([[5] * 2 + [3] * 9])
    assert not read_structure(row, WITH_HEADER, sequences=numbers).segments.any()
    padding = torch.tensor([[0] * 2 + [1] * 9])
    assert not read_structure(row, WITH_HEADER, padding).segments.any()


def test_a_block_does_not_reach_into_the_next_sequence() -> None:
    check([Row([ids_of("a[(b"), ids_of("(a)]a"), ids_of("[(a)(bb)]a")])], BARE)


def test_a_row_of_padding_and_a_row_of_one_token() -> None:
    ids = torch.tensor([[2, 2, 2], [2, 2, 0]])
    padding = torch.tensor([[0, 0, 0], [0, 0, 1]])
    structure = read_structure(ids, BARE, padding)
    assert structure.segments.tolist() == [[0] * 3, [0] * 3]
    assert structure.positions.tolist() == [[0] * 3, [0] * 3]
    assert structure.sequences.tolist() == [[-1] * 3, [-1, -1, 2]]
    assert torch.equal(path_window_mask(ids, BARE, padding)[:, 0], torch.eye(3).bool().expand(2, 3, 3))


def test_length_one_and_length_zero() -> None:
    for token in range(10):
        check([Row([[token]])], WITH_HEADER)
        check([Row([[token]])], BARE)
    for shape in ((1, 0), (0, 5), (0, 0)):
        empty = torch.zeros(shape, dtype=torch.int64)
        assert read_structure(empty, BARE).positions.shape == shape
        assert path_window_mask(empty, BARE, window=2).shape == (shape[0], 1, shape[1], shape[1])


def test_int32_ids_and_bool_or_float_padding_masks() -> None:
    ids = torch.tensor([ids_of("aa[(ab)(b)]a")])
    padding = torch.tensor([[0] + [1] * 11])
    expected = read_structure(ids, BARE, padding)
    for mask in (padding.bool(), padding.float(), padding.int()):
        found = read_structure(ids.int(), BARE, mask)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_arguments_are_not_written_to() -> None:
    arguments = [torch.tensor([ids_of("a[(a)(b)]")]), torch.ones(1, 9).long(), torch.zeros(1, 9).long()]
    before = copy.deepcopy(arguments)
    path_window_mask(arguments[0], BARE, *arguments[1:], window=3)
    assert all(torch.equal(a, b) for a, b in zip(before, arguments, strict=True))


# --- beside the grammar -----------------------------------------------------------------------------------

PART = st.sampled_from(["a", "b", "ab", "ba"])


@st.composite
def valid_responses(draw: st.DrawFn) -> str:
    written = draw(PART)
    for _ in range(draw(st.integers(0, 3))):
        paths = "".join(f"({draw(PART)})" for _ in range(draw(st.integers(2, 4))))
        written += f"[{paths}]" + "{" + draw(PART) + "}" + draw(st.sampled_from(["", "a"]))
    return written


@settings(max_examples=100, deadline=None)
@given(valid_responses())
def test_the_paths_of_a_valid_trace_are_the_segments(written: str) -> None:
    ids = ids_of(written)
    trace = parse_ids(ids, range(6))
    assert trace.is_valid
    segments = read_structure(torch.tensor([ids]), BARE).segments[0].tolist()
    by_grammar = [0] * len(ids)
    spans = [path.span for block in trace.blocks for path in block.paths]
    for number, (start, end) in enumerate(spans, 1):
        by_grammar[start:end] = [number] * (end - start)
    assert segments == by_grammar


@settings(max_examples=300, deadline=None)
@given(SEQUENCES)
def test_the_paths_of_any_trace_begin_where_the_segments_do(ids: list[int]) -> None:
    """What the grammar calls a fault, glue after `</Path>`, is the one difference: no path's for the grammar,
    of the path before it for the mask."""
    spans = [path.span for block in parse_ids(ids, range(6)).blocks for path in block.paths]
    segments = read_structure(torch.tensor([ids]), BARE).segments[0]
    assert segments.max() == len(spans)
    for number, (start, end) in enumerate(spans, 1):
        own = (segments == number).nonzero().flatten()
        assert own[0] == start
        assert own[-1] + 1 >= end
        assert len(own) == own[-1] + 1 - start


# --- what the decoder inserts -----------------------------------------------------------------------------

JOINED = Tags(*range(6), glue=(8,))

FORCED = {
    # (written, paths): forced tokens marked ^
    "a block": ("a[(ab)(b)]\n{a}a", 2, "..^...^..^^^..."),
    "plain text": ("aba", 2, "..."),
    "without glue the summary is the model's": ("[(a)(b)]{a}", 2, ".^..^..^..."),
    "with another glue too": ("[(a)(b)]b{a}", 2, ".^..^..^...."),
    "two blocks": ("[(a)(b)]\n{a}[(a)(b)]\n{a}", 2, ".^..^..^^^..."[:12] + ".^..^..^^^.."),
    "three fixed paths": ("[(a)(b)(b)]\n{a}", 3, ".^..^..^..^^^.."),
    "auto, two paths: the closer is the model's": ("[(a)(b)]\n{a}", "auto", ".^..^...^^.."),
    "auto, three paths: so is the third": ("[(a)(b)(b)]\n{a}", "auto", ".^..^......^^.."),
    "auto, one path: the runtime starts two": ("[(a)]\n{a}", "auto", ".^..^^^.."),
    "cut off in a path": ("a[(ab)(b", 2, "..^...^."),
    "cut off after the block": ("[(a)(b)]", 2, ".^..^..^"),
    "cut off after the glue": ("[(a)(b)]\n", 2, ".^..^..^."),
    "cut off after <Summary>": ("[(a)(b)]\n{", 2, ".^..^..^^^"),
    "no summary: the text is the model's": ("[(a)(b)]ab", 2, ".^..^..^.."),
    "a summary after text is the model's": ("[(a)(b)]aa{b}", 2, ".^..^..^....."),
    "a nested <Parallel> does not begin to count again": ("[(a[a)(b)]\n{a}", "auto", ".^....^...^^.."),
    "stray tags": ("(a)]{a}", 2, "......."),
    "a block after an empty one": ("[][(a)(b)]\n{b}", 2, ".^.^..^..^^^.."),
    "nothing": ("", 2, ""),
}


@pytest.mark.parametrize(("written", "paths", "marks"), FORCED.values(), ids=FORCED.keys())
def test_what_the_decoder_would_insert(written: str, paths: int | str, marks: str) -> None:
    forced = forced_tokens(ids_of(written), JOINED, paths=paths)
    assert "".join(".^"[is_forced] for is_forced in forced) == marks


@pytest.mark.parametrize("glue", [(), (8,), (9, 8), (9, 9, 8)])
def test_glue_is_as_long_as_the_tokenizer_makes_it(glue: tuple[int, ...]) -> None:
    block, tags = ids_of("[(a)(b)]"), Tags(*range(6), glue=glue)
    for length in range(len(glue) + 1):
        ids = [*block, *glue[len(glue) - length :], tags.summary]
        is_whole = length == len(glue)
        assert forced_tokens(ids, tags)[len(block) :] == [is_whole] * (length + 1)


@settings(max_examples=100, deadline=None)
@example(ids=[0, 2, 2, 1, 8, 4])
@given(FREE)
def test_what_is_forced_is_known_for_any_ids(ids: list[int]) -> None:
    for paths in (2, "auto"):
        forced = forced_tokens(ids, JOINED, paths=paths)
        assert len(forced) == len(ids)
        tags = (BARE.path, BARE.end_parallel, BARE.summary)
        # What is no tag may be the glue between `</Parallel>`, the model's own or not, and the summary.
        glue = {
            i for i in range(1, len(ids) - 1) if tuple(ids[i - 1 : i + 2]) == JOINED.joint and forced[i + 1]
        }
        assert all(token in tags or i in glue for i, token in enumerate(ids) if forced[i])


# --- tags of a tokenizer ----------------------------------------------------------------------------------


def test_the_tags_of_a_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    with pytest.raises(ModelError, match=r"no token for <Parallel>, </Parallel>, .*load_model"):
        Tags.of(tokenizer)
    tokenizer.add_tokens([*TAGS[:5], "<|im_start|>"])
    with pytest.raises(ModelError, match="no token for </Summary>;"):
        Tags.of(tokenizer)
    tokenizer.add_tokens([TAGS[5]])
    tags = Tags.of(tokenizer)
    assert [tags.parallel, tags.end_parallel, tags.path, tags.end_path, tags.summary, tags.end_summary] == (
        tokenizer.convert_tokens_to_ids(list(TAGS))
    )
    assert tokenizer.decode(tags.header) == "<|im_start|>assistant\n"


def test_a_tokenizer_that_makes_all_tags_the_unknown_token_has_none() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    with pytest.raises(ModelError, match="no token for <Parallel>, </Parallel>, <Path>"):
        Tags.of(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))


def test_a_rendered_prompt_and_response_are_told_apart() -> None:
    """The prompt's own text quotes all tags."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.BASE)
    tokenizer.add_tokens([*TAGS, "<|im_start|>", "<|im_end|>"])
    tags = Tags.of(tokenizer)
    prompt = tokenizer(render_prompt("1 + 1?", "parallel"), add_special_tokens=False)["input_ids"]
    text = "<Parallel><Path>\na\n</Path><Path>\nb\n</Path></Parallel>\n<Summary>\nc\n</Summary>"
    response = tokenizer(render_response(text), add_special_tokens=False)["input_ids"]
    assert tags.parallel in prompt
    structure = read_structure(torch.tensor([prompt + response]), tags)
    assert not structure.segments[0, : len(prompt)].any()
    assert structure.positions[0, : len(prompt)].tolist() == list(range(len(prompt)))
    assert structure.segments.max() == 2
    again = read_structure(torch.tensor([response]), Tags(**{**vars(tags), "header": ()}))
    history = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": text}]
    longer = render_prompt("1 + 1?", "parallel", history)
    ids = tokenizer(longer, add_special_tokens=False)["input_ids"]
    turned = read_structure(torch.tensor([ids + response]), tags)
    assert not turned.segments[0, : len(ids)].any()
    assert turned.positions[0, : len(ids)].tolist() == list(range(len(ids)))
    assert torch.equal(turned.segments[:, len(ids) :], again.segments)
    assert torch.equal(turned.positions[:, len(ids) :] - len(ids), again.positions)
    assert torch.equal(structure.segments[:, len(prompt) :], again.segments)
    assert torch.equal(structure.positions[:, len(prompt) :] - len(prompt), again.positions)
