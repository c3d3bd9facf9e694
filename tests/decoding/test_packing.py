"""Linear layers in a faster layout: the same products, only while it lasts, only where it fits."""

import pytest
import torch
from torch import nn

from prl.decoding.packing import SMALLEST, packed_linears

LARGE = (256, SMALLEST // 256)
SMALL = (256, SMALLEST // 256 - 1)


def is_packed(linear):
    return "forward" in vars(linear)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
def test_same_products_in_and_after(shape, rows, bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(*shape, bias=bias))
    x = torch.randn(1, rows, shape[0])
    before, weight = model(x), model[0].weight.data_ptr()
    with torch.no_grad(), packed_linears(model):
        assert is_packed(model[0])
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x), before)
    assert model[0].weight.data_ptr() == weight


@pytest.mark.parametrize("shape", [LARGE, SMALL], ids=["large", "small"])
def test_the_weights_of_the_moment_are_packed(shape):
    model = nn.Sequential(nn.Linear(*shape))
    x = torch.ones(1, shape[0])
    for scale in (1.0, 3.0):
        model[0].weight.data.fill_(scale)
        with torch.no_grad(), packed_linears(model):
            expected = torch.full((1, shape[1]), scale * shape[0]) + model[0].bias
            torch.testing.assert_close(model(x), expected)


def test_undone_when_something_fails():
    model = nn.Sequential(nn.Linear(*LARGE))
    with pytest.raises(RuntimeError, match="on purpose"), packed_linears(model):
        raise RuntimeError("on purpose")
    assert not is_packed(model[0])


def test_small_ones_are_laid_out_column_by_column():
    linear = nn.Linear(*SMALL)
    with packed_linears(nn.Sequential(linear)):
        weight = vars(linear)["forward"].keywords["weight"]
        assert weight.shape == linear.weight.shape
        assert weight.t().is_contiguous()


class Adapted(nn.Linear):
    """A layer that computes something of its own."""


@pytest.mark.parametrize(
    "linear",
    [
        nn.Linear(*LARGE, dtype=torch.bfloat16),
        Adapted(*LARGE),
        nn.Linear(*LARGE, device="meta"),
    ],
    ids=["16 bits", "subclass", "not on a CPU"],
)
def test_others_are_left_alone(linear):
    with packed_linears(nn.Sequential(linear)):
        assert not is_packed(linear)


def test_a_layer_that_was_taken_over_stays_so():
    linear = nn.Linear(*LARGE)
    linear.forward = lambda x: x + 1
    with packed_linears(nn.Sequential(linear)):
        assert linear(torch.zeros(1)) == 1
    assert linear(torch.zeros(1)) == 1
