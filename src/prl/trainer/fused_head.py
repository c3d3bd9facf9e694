"""TRL's fused LM head without what it computes for nothing: rows that do not train, words nobody asks for.

peft 0.21 puts the trained rows of the tags into the embedding, and into a head that is tied to it, by copies
of the whole matrix at each pass. Its gradient is another such matrix, a third product as large as the head's
own, of which six rows are kept. Here those rows stand in the frozen matrix itself, and have their gradient
from their own columns. And off a GPU trl 1.16 (`add_fused_lm_head`) projects all positions to the vocabulary,
those of prompts and padding too; here only those with a label, as it does on one. On a CPU its tiles are no
larger than a cache.

Log-probabilities, entropies, loss and gradients are the same to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from trl.trainer import utils as trl_utils

from prl.machine.load import CPU_TILE, TILE_ROWS


class Rows(NamedTuple):
    """Which rows of a matrix are trained, and what they are now: (n,), (n, hidden)."""

    ids: Tensor
    values: Tensor


def spare_the_head(model: Any) -> int:
    """Let the fused head that a trainer has added to `model` compute what is needed alone; how many matrices
    have rows that are trained."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = base.forward

    @functools.wraps(forward)
    def spared(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("fused_lm_head"):
            return forward(*args, **kwargs)
        with _head_of_ours():
            return forward(*args, **kwargs)

    base.forward = spared
    layers = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    for layer in layers:
        layer.forward_adapters = functools.partial(_embed, layer)
        layer.get_merged_weights = functools.partial(_weight, layer)
        layer.enable_adapters = functools.partial(_enable, layer)
    return len(layers)


# --- The matrices


def _put_in(layer: Any, names: Sequence[str]) -> Rows | None:
    """The rows that train, after they were written into the matrix of a layer. None where it has none, as
    with the adapter of a reference: peft's copy leaves the matrix to a backward pass that may still come."""
    if layer.disable_adapters or layer.merged or len(names) != 1:
        return None
    rows, weight = layer.trainable_tokens_delta[names[0]], layer.get_base_layer().weight
    if not rows.requires_grad or weight.requires_grad:
        return None
    index = torch.tensor(layer.token_indices[names[0]], device=weight.device)
    values = rows.to(weight)
    weight.data[index] = values.detach()
    return Rows(index, values)


def _embed(layer: Any, ids: Tensor, names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if (
        isinstance(base, nn.Embedding)
        and layer._get_embed_scale() is None
        and (rows := _put_in(layer, names))
    ):
        embedded: Tensor = _Embedded.apply(base(ids), ids, *rows)
        return embedded
    return TrainableTokensLayer.forward_adapters(layer, ids, names, *args, **kwargs)


def _weight(layer: Any, names: Sequence[str]) -> Tensor:
    """The matrix for the fused head, which finds the rows at it."""
    if trl_utils._ChunkedLogProbFunction is _Head and (rows := _put_in(layer, names)):
        weight: Tensor = layer.get_base_layer().weight.detach()
        weight.trained_rows = rows  # type: ignore[attr-defined]
        return weight
    return TrainableTokensLayer.get_merged_weights(layer, names)


def _enable(layer: Any, enabled: bool) -> None:
    """peft's, after which a layer without its adapter has its own rows."""
    if not (enabled or layer.disable_adapters or layer.merged):
        weight = layer.get_base_layer().weight
        for name in layer.active_adapters:
            weight.data[layer.token_indices[name]] = layer.trainable_tokens_original[name].to(weight)
    TrainableTokensLayer.enable_adapters(layer, enabled)


class _Embedded(torch.autograd.Function):
    """What was looked up, with its gradient for the rows that train."""

    @staticmethod
    def forward(ctx: Any, embedded: Tensor, ids: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(ids, index)
        return embedded.view_as(embedded)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        ids, index = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        return None, None, None, (index[:, None] == ids.flatten()).to(grad.dtype) @ grad


# --- The head


@contextmanager
def _head_of_ours() -> Iterator[None]:
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton = lambda device: True  # there: whether positions without a label are left out
    trl_utils._ChunkedLogProbFunction = _Head
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = before


_TRL_HEAD = trl_utils._ChunkedLogProbFunction


class _Head:
    """trl's `ChunkedLogProbFunction`, whose `weight` may have rows that train."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        softcap: float | None = None,
        scale: float = 1.0,
        outputs: Sequence[str] = (),
    ) -> tuple[Any, ...]:
        chunk_size = min(chunk_size, len(weight))  # a tile of logits is made as wide, filled or not
        if hidden.device.type == "cpu":
            chunk_size = min(chunk_size, CPU_TILE // max(1, min(len(hidden), TILE_ROWS)))
        given = (bias, targets, temperature, chunk_size, softcap, scale, outputs)
        rows: Rows | None = getattr(weight, "trained_rows", None)
        if rows is None:
            found: tuple[Any, ...] = _TRL_HEAD.apply(hidden, weight, *given)
            return found
        if softcap is not None or scale != 1.0:
            copied = weight.index_copy(0, *rows)
            found = _TRL_HEAD.apply(hidden, copied, *given)
            return found
        log_probs, entropy, *rest = _TRL_HEAD.apply(hidden, weight, *given)
        log_probs, entropy = _Scored.apply(
            log_probs, entropy, hidden.detach(), weight, bias, targets, temperature, *rows
        )
        return log_probs, entropy, *rest


class _Scored(torch.autograd.Function):
    """Log-probabilities (N,) and entropies of targets, with their gradient for the rows that train.

    With p the probability of a row's word, that of a log-probability by its logit is [it is the target] - p,
    that of an entropy -p (log p + entropy). What p is divided by follows from the target's own logit,
    computed as trl computes it: in the precision of the product, but for one rounding.
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_probs: Tensor,
        entropy: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        index: Tensor,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        kind = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        ctx.temperature = temperature
        ctx.save_for_backward(log_probs, entropy, hidden, weight, bias, targets, index, rows)
        return log_probs.view_as(log_probs), None if entropy is None else entropy.view_as(entropy)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        of_log_probs, of_entropy = grads
        log_probs, entropy, hidden, weight, bias, targets, index, rows = ctx.saved_tensors
        of_rows = torch.zeros_like(rows, dtype=torch.float32)
        for start in range(0, len(hidden), TILE_ROWS):
            part = slice(start, start + TILE_ROWS)
            asked = targets[part]
            states = hidden[part].to(ctx.dtype).float()
            at = (states * weight[asked].to(ctx.dtype).float()).sum(-1)
            logits = states @ rows.to(ctx.dtype).float().T
            if bias is not None:
                at, logits = at + bias[asked], logits + bias[index]
            at, logits = (x.to(ctx.dtype).float() / ctx.temperature for x in (at, logits))
            log_p = logits - (at - log_probs[part])[:, None]
            p = log_p.exp()
            grad = torch.zeros_like(p)
            if of_log_probs is not None:
                grad += of_log_probs[part, None] * ((asked[:, None] == index).float() - p)
            if of_entropy is not None:
                grad -= of_entropy[part, None] * p * (log_p + entropy[part, None])
            of_rows += (grad / ctx.temperature).T @ states
        return of_log_probs, of_entropy, *[None] * 6, of_rows.to(rows.dtype)
