"""The cache of rows: who sees whom, where keys and values go, and attention over what is stored."""

from __future__ import annotations

from itertools import chain, repeat
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prl.decoding.rows import ATTENTION, CHUNK, UNWRITTEN, Columns, RowCache, attend, masks_of
from prl.errors import ModelError
from prl.structure import Tags, attention_named, path_window_mask
from prl.structure.reader import MAIN_HORIZON, Reader

TAGS = Tags(*range(6))
CPU = torch.device("cpu")


def columns_of(tokens: list[tuple[int, ...]]) -> Columns:
    """From tuples (token, row, column, slot, segment, horizon, position)."""
    return Columns(*torch.tensor(tokens).T)


def feed(cache: RowCache, parts: list[tuple[int, int]], cache_rows: list[int] | None = None) -> Columns:
    """Lay out slots start .. stop of the main thread of each row."""
    columns = columns_of(
        [
            (0, r, i - start, i, 0, MAIN_HORIZON, i)
            for r, (start, stop) in enumerate(parts)
            for i in range(start, stop)
        ]
    )
    width = max(stop - start for start, stop in parts)
    used = max(stop for _, stop in parts)
    cache.make_room(used)
    cache.lay_out(columns, None if cache_rows is None else torch.tensor(cache_rows), len(parts), width, used)
    return columns


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=25), min_size=1, max_size=3),
    portions=st.lists(st.integers(0, 9), max_size=12),
    window=st.none() | st.integers(1, 6),
)
def test_a_token_sees_what_training_lets_it_see(texts, portions, window):
    """Rows of random tokens, fed in portions of any size, against the mask of the whole."""
    whole = [path_window_mask(torch.tensor([text]), TAGS, window=window)[0, 0] for text in texts]
    readers = [Reader(TAGS) for _ in texts]
    cache = RowCache(len(texts), CPU)
    fed = [0] * len(texts)
    sizes = chain(portions, repeat(3))
    while any(done < len(text) for done, text in zip(fed, texts, strict=True)):
        tokens = []
        for r, (text, reader) in enumerate(zip(texts, readers, strict=True)):
            portion = text[fed[r] : fed[r] + (next(sizes) if fed[r] else 1)]  # prompts are never empty
            tokens += [(t, r, c, fed[r] + c, *reader.read(t)) for c, t in enumerate(portion)]
            fed[r] += len(portion)
        if not tokens:
            continue
        columns = columns_of(tokens)
        width, used = max(token[2] for token in tokens) + 1, max(fed)
        cache.make_room(used)
        cache.lay_out(columns, None, len(texts), width, used)
        visible = cache.visible(window)
        assert visible.shape == (len(texts), width, used)
        assert visible.any(-1).all(), "no row of the softmax is empty, tokens or none"
        for _, r, c, slot, *_ in tokens:
            expected = torch.zeros(used, dtype=torch.bool)
            expected[: len(texts[r])] = whole[r][slot][:used]
            assert torch.equal(visible[r, c], expected)


def test_keys_and_values_stay_where_they_are_written():
    cache = RowCache(3, CPU)
    written = torch.full((3, 2, 200, 4), torch.nan)
    generator = torch.Generator().manual_seed(0)
    steps = [
        ([(0, 5), (0, 3)], [2, 0]),  # two prompts, prefilled to rows 2 and 0
        ([(3, 4), (0, 4), (5, 6)], None),
        ([(4, 90), (4, 5), (6, 7)], None),  # the cache grows
        ([(90, 91), (5, 130)], None),
    ]
    for parts, cache_rows in steps:
        columns = feed(cache, parts, cache_rows)
        new = torch.randn(1, 2, len(columns.row), 4, generator=generator)
        rows = torch.tensor(cache_rows)[columns.row] if cache_rows else columns.row
        for n in range(len(columns.row)):
            written[rows[n], :, columns.slot[n]] = new[0, :, n]
        keys, values = cache.update(new, -new, 0)
        expected = written[cache_rows or slice(len(parts)), :, : cache.layout.used]
        is_written = ~expected.isnan()
        assert torch.equal(keys[is_written], expected[is_written])
        assert torch.equal(values[is_written], -expected[is_written])
    assert cache.segments.shape[1] % CHUNK == 0
    assert cache.nbytes == 2 * cache.keys[0].nbytes
    assert cache.get_seq_length() == 130


def test_a_copied_row_holds_what_was_copied_and_nothing_else():
    cache = RowCache(2, CPU)
    feed(cache, [(0, 6), (0, 8)])
    new = torch.randn(1, 1, 14, 2)
    cache.update(new, new, 0)
    cache.copy_row(0, 1, 4)
    assert torch.equal(cache.keys[0][1, :, :4], cache.keys[0][0, :, :4])
    assert (cache.segments[1, 4:] == UNWRITTEN).all()
    assert (cache.segments[1, :4] == 0).all()
    cache.copy_row(0, 0, 3)  # to itself: cut off
    assert (cache.segments[0, 3:] == UNWRITTEN).all()
    feed(cache, [(3, 4), (4, 5)])
    assert cache.visible()[:, 0].tolist() == [[True] * 4 + [False], [True] * 5]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention(groups, softcap, scaling):
    """Against a softmax written out token by token; values may be of another size than keys."""
    heads = 4
    cache = RowCache(2, CPU)
    parts = [(0, 5), (0, 2)]
    columns = feed(cache, parts)
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, size: int) -> Tensor:
        return torch.randn(1, heads, len(columns.row), size, generator=generator)

    query, key, value = draw(heads, 6), draw(heads // groups, 6), draw(heads // groups, 5)
    backbone = SimpleNamespace(
        config=SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(
                num_attention_heads=heads, num_key_value_heads=heads // groups
            )
        )
    )
    mask = masks_of(backbone)(cache, torch.float32)
    stored = cache.update(key, value, 0)
    out, weights = attend(nn.Identity(), query, *stored, mask, rows=cache, scaling=scaling, softcap=softcap)
    assert weights is None
    for n in range(len(columns.row)):
        before = (columns.row == columns.row[n]) & (columns.slot <= columns.slot[n])
        for head in range(heads):
            scores = key[0, head // groups, before] @ query[0, head, n] * (scaling or 6**-0.5)
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            expected = scores.softmax(0) @ value[0, head // groups, before]
            torch.testing.assert_close(out[0, n, head], expected)


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (dict(), None),
        (dict(sliding_window=2), None),
        (dict(layer_types=["full_attention"] * 2, sliding_window=2), None),
        (dict(layer_types=["sliding_attention", "full_attention"], sliding_window=2), {"sliding", "full"}),
        (dict(layer_types=["sliding_attention"] * 2, sliding_window=2), {"sliding"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_mask_a_kind_of_layer(config, kinds, dtype):
    cache = RowCache(1, CPU)
    feed(cache, [(0, 4)])
    text = SimpleNamespace(num_attention_heads=4, **config)
    made = masks_of(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text)))(cache, dtype)
    full = torch.ones(4, 4).tril().bool()
    window = full & torch.ones(4, 4).triu(-1).bool()
    if kinds is None:
        expected = {None: window if "sliding_window" in config and "layer_types" not in config else full}
        made = {None: made}
    else:
        expected = {f"{kind}_attention": window if kind == "sliding" else full for kind in kinds}
    assert set(made) == set(expected)
    for kind, mask in made.items():
        assert mask.dtype == dtype
        assert torch.equal(mask[0, 0] == 0, expected[kind])
        assert mask.min() == torch.finfo(dtype).min


def test_other_kinds_of_layers_get_no_mask():
    text = SimpleNamespace(layer_types=["linear_attention", "full_attention"])
    with pytest.raises(ModelError, match="has layers of kind linear_attention"):
        masks_of(SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text)))


def test_the_attention_of_the_model_comes_back(make_model):
    model = make_model(implementation="eager")

    def fail() -> None:
        with attention_named(model.base_model, ATTENTION):
            assert model.config._attn_implementation == "prl_rows"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.config._attn_implementation == "eager"
