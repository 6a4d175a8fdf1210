"""Powers of two between the inputs and the weights of linear layers, and ranges with the least error."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from search.core.errors import SearchError
from search.core.quantisation import Layer, Quantisation, Scheme, scheme_named, weight_schemes
from search.model.current_step import enter_step
from search.quantise.calibration import calibrate
from search.quantise.layers import WEIGHT
from search.quantise.ranges import Ranges
from search.quantise.recipe import quantise
from search.quantise.rounded import rounded
from search.quantise.smoothing import divided, find_exponents, multiplied

WIDE = 64


def with_an_outlier() -> Tensor:
    """Inputs `[calls, rows, channels]`, one channel a hundred times as large as the others."""
    inputs = torch.randn(4, 32, WIDE, generator=torch.Generator().manual_seed(0))
    inputs[..., 5] *= 100
    return inputs


def a_linear_layer() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDE, WIDE, bias=False)


def calibrated(module: nn.Module, inputs: Tensor, scheme: str = "int8", **options: Any) -> Layer:
    def run() -> None:
        enter_step(0)
        for call in inputs:
            module(call)

    plan = calibrate({WEIGHT: module}, [WEIGHT], run, scheme=scheme_named(scheme), **options)
    return plan.layers[WEIGHT]


def error(module: nn.Module, layer: Layer, inputs: Tensor, scheme: str = "int8") -> float:
    """Relative L2 of what the layer makes if it rounds."""
    with torch.no_grad():
        expected = module(inputs)
        with rounded({WEIGHT: module}, Quantisation(scheme_named(scheme), {WEIGHT: layer})):
            off = module(inputs) - expected
    return float(off.norm() / expected.norm())


@pytest.mark.parametrize(("scheme", "times"), [("int8", 4), ("int8-symmetric", 4), ("fp8", 1)])
def test_one_channel_that_is_much_larger_costs_less(scheme: str, times: float) -> None:
    """Floats have digits for small numbers beside large ones, integers do not."""
    module, inputs = a_linear_layer(), with_an_outlier()
    plain, smooth = (
        calibrated(module, inputs, scheme, smoothing=strength) for strength in (None, 0.5)
    )
    assert plain.exponents == ()
    assert smooth.exponents[5] == max(smooth.exponents) > 1
    assert smooth.high < plain.high / 4
    assert error(module, smooth, inputs, scheme) < error(module, plain, inputs, scheme) / times


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_nothing_changes_until_something_is_rounded(dtype: torch.dtype) -> None:
    inputs, weights = with_an_outlier().to(dtype), a_linear_layer().weight.detach().to(dtype)
    layer = Layer(exponents=(*range(-3, 4), *[0] * (WIDE - 7)))
    moved = linear(divided(inputs, layer), multiplied(weights, layer))
    assert torch.equal(moved, linear(inputs, weights))


def test_layers_that_take_the_same_inputs_are_divided_alike() -> None:
    """Else a graph would round the same values twice."""
    layers = {name: a_linear_layer() for name in ("query", "key", "other")}
    for scale, layer in zip((1.0, 9.0, 1.0), layers.values(), strict=True):
        layer.weight.data[:, 2] *= scale
    inputs = with_an_outlier()

    def run() -> None:
        layers["query"](inputs)
        layers["key"](inputs)
        layers["other"](-2 * inputs.roll(1, dims=-1))

    found = find_exponents(layers, run, 0.5)
    assert found["query"] == found["key"] != found["other"]
    assert found["query"][2] < 0, "for the larger of both weights"


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_channel_without_inputs_or_weights_stays_as_it_is(strength: float) -> None:
    module, inputs = a_linear_layer(), with_an_outlier()
    inputs[..., 7] = 0
    module.weight.data[:, 9] = 0
    module.weight.data[:, 11] *= 9
    found = find_exponents({WEIGHT: module}, lambda: module(inputs), strength)[WEIGHT]
    assert found[7] == found[9] == 0
    assert any(found)


def test_convolutions_keep_their_scales() -> None:
    module = nn.Conv1d(4, 4, 3)
    inputs = torch.randn(1, 2, 4, 16) * torch.tensor([1.0, 1.0, 1.0, 100.0])[:, None]
    assert calibrated(module, inputs, smoothing=0.5).exponents == ()


def heavy_tails() -> Tensor:
    """A value in a million that is 15 times as large as the others."""
    inputs = torch.randn(4, 4096, WIDE, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    inputs[2, 100, 7] = 60
    return inputs


def bounded() -> Tensor:
    """Where no value is far from the others, nothing is worth cutting off."""
    return torch.rand(4, 64, WIDE, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("scheme", ["int8", "int8-symmetric"])
@pytest.mark.parametrize(
    ("make", "smoothing", "most"),
    [(heavy_tails, None, 0.8), (heavy_tails, 0.5, 1.0), (bounded, None, 1.0)],
    ids=["heavy tails", "heavy tails, smoothed", "bounded"],
)
def test_the_range_of_least_squares_rounds_better(
    scheme: str, make: Callable[[], Tensor], smoothing: float | None, most: float
) -> None:
    module, inputs = a_linear_layer(), make()
    whole, cut = (
        calibrated(module, inputs, scheme, ranges=each, smoothing=smoothing)
        for each in (Ranges.MINMAX, Ranges.MSE)
    )
    assert whole.low <= cut.low <= cut.high <= whole.high
    assert (cut.exponents, cut.share) == (whole.exponents, whole.share)
    assert error(module, cut, inputs, scheme) <= most * error(module, whole, inputs, scheme)


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_count_by_their_weights(groups: int) -> None:
    """The rare large value is in a channel that multiplies much, or nothing."""
    module, inputs = nn.Conv2d(4, 4, 3, groups=groups), torch.rand(2, 2, 4, 64, 64)
    inputs[1, 1, 3, 5, 5] = 20
    module.weight.data[-4 // groups :, -1] = 100
    kept = calibrated(module, inputs, ranges=Ranges.MSE)
    module.weight.data[-4 // groups :, -1] = 0
    cut = calibrated(module, inputs, ranges=Ranges.MSE)
    assert kept.high > 19
    assert cut.high < 11


@pytest.mark.parametrize("value", [0.0, 2.0, -3.0])
def test_a_layer_that_takes_one_value_has_a_range(value: float) -> None:
    layer = calibrated(a_linear_layer(), torch.full((1, 2, WIDE), value), ranges=Ranges.MSE)
    assert layer.low == layer.high == value


@pytest.mark.parametrize("scheme", weight_schemes(), ids=lambda each: each.name)
@pytest.mark.parametrize("options", [{"smoothing": 0.5}, {"ranges": Ranges.MSE}], ids=str)
def test_options_for_inputs_that_are_not_rounded_are_refused(
    scheme: Scheme, options: dict[str, Any]
) -> None:
    nothing: Any = SimpleNamespace()
    with pytest.raises(
        SearchError, match=rf"{scheme.name} leaves the layers' inputs .*; leave them out, or give"
    ):
        quantise(nothing, nothing, nothing, (), scheme=scheme, **options)
