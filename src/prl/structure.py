"""Structured attention: who sees whom, and at which position, from token ids alone.

    read_structure(input_ids, tags)         segment, horizon and position of each token
    structural_positions, path_window_mask  the two things that a model needs of it
    attach_structure(model, tags)           make a model compute with it, inside any trainer
    forced_tokens(ids, tags)                which tokens of a response the decoder inserts by itself

The paths of a block do not see each other and start at the same position; what follows the block sees them
all and goes on after the longest (Parallel-R1, arXiv 2509.07980, section 3.4, "Unseen").

The rules, for any ids whatever, complete or cut off. Nothing before the response is structure (prompts quote
the tags; earlier turns are of the prompt). A block runs from a `<Parallel>` while none is open to the first
`</Parallel>`; a `<Parallel>` in between is text and never forks (`prl.grammar` calls it a fault). A path runs
from a `<Path>` in a block up to the next `<Path>` or `</Parallel>`; `</Path>` ends nothing, so that glue
after it belongs to the path. What stands in a block before its first path is main thread. Any other tag is
text. No token of a response changes what was said of the tokens before it: that is why decoding, which sees a
prefix, and training agree.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.masking_utils import create_causal_mask

from prl.errors import ModelError, first_line
from prl.grammar import TAGS
from prl.prompts import IM_END, IM_START
from prl.runs.disk import read_json, write_json

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
"""What can take a mask of its own; flash attention cannot.

On a CPU flex attention has no gradients, and torch 2.13 fails to compile it for a second shape.
"""

ATTENTION_FILE = "prl.json"
"""Says beside the weights of a model or an adapter with which attention it was trained."""

LAYER_KINDS = ("full_attention", "sliding_attention")
"""The kinds of layers, by transformers' names, that a mask of one's own says everything about."""


@dataclass(frozen=True)
class Tags:
    """Ids of the six tags, and the tokens that open the response (`header`; without one all is response).

    The response begins after the first whole header of a sequence, and anew after each `next_turn`: a turn's
    end and another header, which stand in prompts with earlier turns and in no response. Other headers are
    text. Prompts are tokenised apart from responses, so that a header's last token cannot merge with what
    follows it.
    """

    parallel: int
    end_parallel: int
    path: int
    end_path: int
    summary: int
    end_summary: int
    header: tuple[int, ...] = ()
    next_turn: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Tags:
        """The tags of a tokenizer that has them. ModelError names those that are not one token."""
        pieces = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in TAGS}
        unknown = [tokenizer.unk_token_id]
        if missing := [tag for tag, ids in pieces.items() if len(ids) != 1 or ids == unknown]:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no token for {', '.join(missing)}; "
                'load the model with prl.model.load_model(..., tags="tokens"), or call add_tags'
            )
        header = tokenizer(f"{IM_START}assistant\n", add_special_tokens=False)["input_ids"]
        parallel, end_parallel, path, end_path, summary, end_summary = (ids[0] for ids in pieces.values())
        # A turn's end is one token wherever it stands, so this is how the pieces are tokenised in a prompt.
        ended = tokenizer(f"{IM_END}\n{IM_START}assistant\n", add_special_tokens=False)["input_ids"]
        return cls(parallel, end_parallel, path, end_path, summary, end_summary, tuple(header), tuple(ended))


class Structure(NamedTuple):
    """What the tags make of a batch of token ids; each of shape (batch, length), int64.

    `segments`: 0 for the main thread, 1, 2, … for the paths of a sequence in written order. `horizons`: a
    token sees the segments below it and its own; for a path token the first segment of its block, for the
    main thread more than any segment. `positions`: for the rotary embedding. `sequences`: the column where
    the token's sequence begins, -1 for padding; tokens of different ones do not see each other.
    """

    segments: Tensor
    horizons: Tensor
    positions: Tensor
    sequences: Tensor


def read_structure(
    input_ids: Tensor, tags: Tags, attention_mask: Tensor | None = None, sequences: Tensor | None = None
) -> Structure:
    """The structure of `input_ids` (batch, length), on its device, without a loop over tokens.

    `attention_mask` (batch, length) is 0 on padding, which may stand on either side. `sequences` (batch,
    length) tells apart sequences that are packed in a row: a new one begins where the number changes, and has
    a header of its own. What packing cut off from its header is read as prompt.
    """
    batch, length = input_ids.shape
    index = torch.arange(length, device=input_ids.device).expand(batch, length)
    real = torch.ones_like(index, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    begins = index == 0
    if sequences is not None:
        begins[:, 1:] |= sequences[:, 1:] != sequences[:, :-1]
    begin = _latest(begins, index)

    def count(event: Tensor) -> Tensor:
        """How many events (or what sum) its sequence has had, up to and including each token."""
        total = event.long().cumsum(1)
        return total - (total - event.long()).gather(1, begin)

    def last_before(event: Tensor) -> Tensor:
        """The column where its sequence had the last event, up to and not including each token; -1: none."""
        found = _latest(event, index).roll(1, 1)
        found[:, :1] = -1
        return torch.where(found >= begin, found, -1)

    n = count(real) - 1  # index among the tokens of the sequence, padding left out
    response = real
    if tags.header:
        is_whole = n >= len(tags.header) - 1  # not cut off where its sequence begins
        response = last_before(_header_ends(input_ids, tags.header) & is_whole) >= 0
        if tags.next_turn:
            is_whole = n >= len(tags.next_turn) - 1
            following = _next(_header_ends(input_ids, tags.next_turn) & is_whole, index)
            response &= (following == length) | (begin != begin.gather(1, following.clamp(max=length - 1)))
    opens = response & (input_ids == tags.parallel)
    closes = response & (input_ids == tags.end_parallel)
    is_open = last_before(opens) > last_before(closes)
    begins_block, ends_block = opens & ~is_open, closes & is_open
    block = _latest(begins_block, index)  # of an earlier sequence, or -1, where none is open
    begins_path = response & (input_ids == tags.path) & is_open
    path_before, path = last_before(begins_path), _latest(begins_path, index)
    first = _latest(begins_path & (path_before < block), index).clamp(min=0)  # the block's first path
    in_path = real & is_open & ~ends_block & (path > block)

    path_count = count(begins_path)
    segments = torch.where(in_path, path_count, 0)
    horizons = torch.where(in_path, path_count.gather(1, first), length + 1)

    # Positions stand still while paths but the longest are written: at `</Parallel>` the rest is taken off.
    ends_path = (begins_path | ends_block) & (path_before > block)
    ended = n - n.gather(1, path_before.clamp(min=0))  # tokens of the path that ends here
    block_number = begins_block.long().cumsum(1) * (length + 1)
    longest = torch.where(ends_path, block_number + ended, 0).cummax(1).values - block_number
    saved = torch.where(ends_block & ends_path, n - n.gather(1, first) - longest, 0)
    rewound = torch.where(in_path, n.gather(1, path.clamp(min=0)) - n.gather(1, first), 0)
    positions = (n - count(saved) - rewound).clamp(min=0)
    return Structure(segments, horizons, positions, torch.where(real, _latest(real & (n == 0), index), -1))


def structural_positions(
    input_ids: Tensor, tags: Tags, attention_mask: Tensor | None = None, sequences: Tensor | None = None
) -> Tensor:
    """Position ids (batch, length); arguments as for `read_structure`."""
    return read_structure(input_ids, tags, attention_mask, sequences).positions


def path_window_mask(
    input_ids: Tensor,
    tags: Tags,
    attention_mask: Tensor | None = None,
    sequences: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """True where a token (dimension 2) sees another (dimension 3): bool, (batch, 1, length, length).

    `window` is that of sliding-window layers, in positions: a token sees those less than `window` before it.
    Padding sees itself alone, which keeps its row of the softmax finite.
    """
    return _visible(read_structure(input_ids, tags, attention_mask, sequences), window)


def attach_structure(
    model: PreTrainedModel | PeftModel, tags: Tags, *, probe: bool = True
) -> RemovableHandle:
    """Make `model` compute with structural positions and path windows wherever it is called. `.remove()` of
    what comes back undoes it.

    A hook on the backbone turns input ids and their padding mask into positions and a mask before each
    forward pass, so it holds inside SFTTrainer and GRPOTrainer, with a fused LM head, under PEFT, with the
    adapter switched off, and with gradient checkpointing. Of the position ids that it is given it uses one
    thing: where they start again at 0 another packed sequence begins (TRL's `padding_free`). Calls that bring
    a mask for each pair of tokens, as the decoder does, are left alone. However the model is saved, by itself
    or as an adapter, `prl.json` beside its weights says that it was attached.

    Raises ModelError where the attention implementation takes no mask, where a structure is attached already,
    and, unless `probe` is off, where the model turns out to ignore mask or positions. Afterwards the model
    itself raises it when it is called with embeddings in place of ids, or goes on from a cache without a mask
    of its own: `model.generate` would decode causally.
    """
    backbone = backbone_of(model)
    implementation = backbone.config._attn_implementation
    if implementation not in ATTENTION_IMPLEMENTATIONS:
        raise ModelError(
            f"attention implementation {implementation!r} takes no path windows; load the model with "
            f"attn_implementation one of {', '.join(ATTENTION_IMPLEMENTATIONS)}"
        )
    if attached_structure(model) is not None:
        raise ModelError("a structure is attached already; remove the first handle before attaching again")
    handle = backbone.register_forward_pre_hook(_StructureHook(tags), with_kwargs=True)
    if probe:
        try:
            _probe(model, tags)
        except BaseException:
            handle.remove()
            raise
    _mark_what_is_saved()
    return handle


def attached_structure(model: PreTrainedModel | PeftModel) -> Tags | None:
    """The tags that `attach_structure` was called with, or None."""
    hooks = backbone_of(model)._forward_pre_hooks.values()
    return next((hook.tags for hook in hooks if isinstance(hook, _StructureHook)), None)


def backbone_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model without PEFT's wrapper and without the LM head."""
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def forced_tokens(ids: Sequence[int], tags: Tags, *, paths: int | str = 2) -> list[bool]:
    """Which tokens of a response (canonical layout, without its prompt) the decoder would insert by itself.

    Inserted are each `<Path>` of a block, its `</Parallel>`, and where `<Summary>` follows at once or after
    one token of glue, these two. With `paths="auto"` the model itself says, after each path from the second
    on, whether another follows: there `<Path>` and `</Parallel>` are its own.
    """
    forced = [False] * len(ids)
    is_open, count, i = False, 0, 0
    while i < len(ids):
        token = ids[i]
        if token == tags.parallel and not is_open:
            is_open, count = True, 0
        elif token == tags.path and is_open:
            count += 1
            forced[i] = paths != "auto" or count <= 2
        elif token == tags.end_parallel and is_open:
            is_open = False
            forced[i] = paths != "auto" or count < 2
            summary = next((j for j in range(i + 1, min(i + 3, len(ids))) if ids[j] == tags.summary), i)
            forced[i + 1 : summary + 1] = [True] * (summary - i)
            i = summary
        i += 1
    return forced


@functools.cache
def _mark_what_is_saved() -> None:
    """From here on, what transformers 5 and peft 0.21 save says in `prl.json` whether structure was attached.

    An adapter may be put around a model after the attaching, and a copy is a model of its own, so it is the
    classes that learn it. A model without structure gets no file, but one that is there is corrected.
    """

    def marking(save: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(save)

        @functools.wraps(save)
        def save_pretrained(model: nn.Module, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            save(model, save_directory, *args, **kwargs)
            given = signature.bind(model, save_directory, *args, **kwargs).arguments
            hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
            is_attached = any(isinstance(hook, _StructureHook) for hook in hooks)
            file = Path(save_directory) / ATTENTION_FILE
            if given.get("is_main_process", True) and (is_attached or file.is_file()):
                attention = "structured" if is_attached else "causal"
                write_json(file, read_json(file) | {"attention": attention})

        return save_pretrained

    for kind in (PreTrainedModel, PeftModel):
        kind.save_pretrained = marking(kind.save_pretrained)


def cache_name(backbone: PreTrainedModel) -> str:
    """What its forward pass calls the cache: `cache` since transformers 5.24, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


@dataclass(frozen=True)
class _StructureHook:
    """A forward pre-hook of a backbone."""

    tags: Tags

    def __call__(
        self, backbone: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        kwargs = dict(zip(inspect.signature(backbone.forward).parameters, args, strict=False)) | kwargs
        mask = kwargs.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
            masks = mask.values() if isinstance(mask, Mapping) else (mask,)
            if backbone.config._attn_implementation == "eager" and any(m.dtype == torch.bool for m in masks):
                raise ModelError(
                    "eager attention adds its mask, a bool one would be wrong without a word; use sdpa"
                )
            return None
        names = ("cache", "past_key_values")  # an old caller's name reaches a hook as it is
        cache = next((kwargs[name] for name in names if kwargs.get(name) is not None), None)
        if cache is not None and cache.get_seq_length() > 0:
            raise ModelError(
                "a model with structured attention cannot go on from a cache by itself (model.generate "
                "decodes causally); use prl.decoding"
            )
        input_ids = kwargs.get("input_ids")
        if input_ids is None:
            raise ModelError("structured attention needs input_ids, the model was called with inputs_embeds")
        positions = kwargs.get("position_ids")
        sequences = None if positions is None else (positions == 0).cumsum(-1).expand_as(input_ids)
        structure = read_structure(input_ids, self.tags, mask, sequences)
        kwargs["position_ids"] = structure.positions
        kwargs["attention_mask"] = _mask_for(backbone, structure)
        return (), kwargs


def _latest(event: Tensor, index: Tensor) -> Tensor:
    """The column of the last event in the row, up to and including each token; -1: none."""
    return torch.where(event, index, -1).cummax(1).values


def _next(event: Tensor, index: Tensor) -> Tensor:
    """The column of the first event in the row, from each token on; its length: none."""
    length = event.shape[1]
    return torch.where(event, index, length).flip(1).cummin(1).values.flip(1)


def _header_ends(input_ids: Tensor, header: tuple[int, ...]) -> Tensor:
    """True on each token that completes `header`; wraps around, so nothing is said of the first tokens."""
    ends = torch.ones_like(input_ids, dtype=torch.bool)
    for back, token in enumerate(reversed(header)):
        ends &= (input_ids == token).roll(back, 1)
    return ends


def _visible(structure: Structure, window: int | None) -> Tensor:
    """What a token sees lies in two stretches of its row: from `begin` up to `first`, the first path of its
    block, and from `own`, its own path, up to itself. On the main thread the two meet.

    Each stretch is a difference of two rows of a triangle, and copying rows is many times faster than
    comparing element by element.
    """
    segments, horizons, positions, sequences = structure
    batch, length = segments.shape
    index = torch.arange(length, device=segments.device).expand(batch, length)
    begin = torch.where(sequences < 0, index, sequences)
    begins_path = (segments > 0) & (segments != segments.roll(1, 1))  # the first column is in no path
    own = torch.where(segments > 0, _latest(begins_path, index), begin)
    first = torch.where(segments > 0, _latest(begins_path & (segments == horizons), index), begin)

    triangle = torch.ones(length + 1, length, dtype=torch.bool, device=segments.device).tril(-1)
    visible = triangle[index + 1]
    scratch = torch.empty_like(visible)
    rows = scratch.view(batch * length, length)
    for bound in (own, first, begin):
        torch.index_select(triangle, 0, bound.flatten(), out=rows)
        visible ^= scratch
    if window is not None:
        torch.gt(positions[:, None, :], positions[:, :, None] - window, out=scratch)
        visible &= scratch
    return visible[:, None]


def foreign_layers(config: Any) -> str | None:
    """The layers that a model's config names and that take no mask, in words; None: there are none."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - set(LAYER_KINDS)
    return f"layers of kind {', '.join(sorted(kinds))}, which take no mask" if kinds else None


def layer_windows(backbone: PreTrainedModel) -> dict[str | None, int | None]:
    """For each kind of attention layer its sliding window, in positions, or None; kind None stands for all
    layers of a model that takes one mask. ModelError where a kind takes no mask."""
    if foreign := foreign_layers(backbone.config):
        raise ModelError(
            f"{type(backbone).__name__} has {foreign}; use a model of the Qwen3, Llama or Gemma families"
        )
    config = backbone.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:  # all layers are of one kind, with a window where the config has one (Mistral)
        return {None: window}
    if kinds == {"full_attention"}:
        return {None: None}
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def _mask_for(backbone: PreTrainedModel, structure: Structure) -> Any:
    """The mask in the form that the backbone takes: one tensor, or one for each kind of layer where they
    differ."""
    masks = {
        kind: _as_implemented(backbone, structure, window) for kind, window in layer_windows(backbone).items()
    }
    return masks.get(None, masks)


def _as_implemented(backbone: PreTrainedModel, structure: Structure, window: int | None) -> Any:
    implementation = backbone.config._attn_implementation
    if implementation == "flex_attention":
        return _flex_mask(backbone, structure, window)
    visible = _visible(structure, window)
    if implementation == "sdpa":
        return visible
    # Eager attention adds its mask: a bool one would be wrong without a word.
    dtype = backbone.get_input_embeddings().weight.dtype
    hidden = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, torch.zeros_like(hidden), hidden)


def _flex_mask(backbone: PreTrainedModel, structure: Structure, window: int | None) -> Any:
    segments, horizons, positions, sequences = structure

    def visible(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (segments[batch, k] < horizons[batch, q]) | (segments[batch, k] == segments[batch, q])
        seen = seen & (sequences[batch, k] == sequences[batch, q])
        return seen if window is None else seen & (positions[batch, q] - positions[batch, k] < window)

    return create_causal_mask(
        backbone.config,
        torch.empty((*segments.shape, 1), device=segments.device),
        None,  # attention_mask
        None,  # the cache, by either name
        and_mask_function=visible,
    )


PROBE_TOLERANCE = 0.05  # of the change that there must be, where there must be none


@torch.no_grad()
def _probe(model: PreTrainedModel | PeftModel, tags: Tags) -> None:
    """Refuse by name a model that does not compute what mask and positions say.

    Four passes over one block of two paths, of equal shape: as it is, with the first path's text altered,
    with the paths swapped, and with ordinary positions. What must not change is measured against what must:
    the logits of a random or a scaled model may hardly change at all.
    """
    backbone = backbone_of(model)
    table = backbone.get_input_embeddings().weight
    usable = [i for i in range(table.shape[0]) if i not in vars(tags).values()]
    words = usable[:: max(1, len(usable) // 32)]

    def text(start: int, count: int) -> list[int]:
        return [words[i % len(words)] for i in range(start, start + count)]

    def path(start: int, count: int) -> list[int]:
        return [tags.path, *text(start, count), tags.end_path]

    opening = [*text(0, 2), *tags.header, tags.parallel]
    sibling, altered, probed = path(2, 8), path(3, 8), path(11, 6)
    end = [tags.end_parallel, tags.summary, *text(20, 4)]
    mine = slice(len(opening) + len(sibling), -len(end))
    mine_swapped = slice(len(opening), len(opening) + len(probed))
    after = slice(-len(end), None)

    def logits(ids: list[int], **arguments: Any) -> Tensor:
        return model(input_ids=torch.tensor([ids], device=table.device), **arguments).logits[0].float()

    def change(one: Tensor, other: Tensor) -> float:
        return (one - other).abs().max().item()

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        written = [*opening, *sibling, *probed, *end]
        found = logits(written)
        with_altered = logits([*opening, *altered, *probed, *end])
        with_swapped = logits([*opening, *probed, *sibling, *end])
        mask = _mask_for(backbone, read_structure(torch.tensor([written], device=table.device), tags))
        ordinary = torch.arange(len(written), device=table.device)[None]
        with_ordinary = logits(written, attention_mask=mask, position_ids=ordinary)
    except ModelError:
        raise
    except Exception as error:
        first = first_line(error)
        raise _unfit(model, f"its forward pass fails ({first})") from error
    finally:
        for module, training in modes.items():
            module.training = training
    summary = change(found[after], with_altered[after])
    if not summary > 0:
        raise _unfit(model, "what follows a block does not see its paths")
    if not change(found[mine], with_altered[mine]) <= PROBE_TOLERANCE * summary:
        raise _unfit(model, "a path's logits change with what its sibling says")
    moved = change(found[mine], with_ordinary[mine])
    if not moved > 0:
        raise _unfit(model, "it ignores position ids")
    is_precise = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    eps = torch.finfo(torch.float32 if is_precise else torch.bfloat16).eps
    rounding = 16 * eps * found[mine].abs().max().item()
    if not change(found[mine], with_swapped[mine_swapped]) <= PROBE_TOLERANCE * moved + rounding:
        raise _unfit(model, "a path's logits change with where it stands in its block")


def _unfit(model: PreTrainedModel | PeftModel, why: str) -> ModelError:
    name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    return ModelError(
        f"{name} cannot compute structured attention: {why}; use --attention causal, or a model of the "
        "Qwen3, Llama or Gemma families"
    )
