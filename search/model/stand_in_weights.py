"""A denoiser that computes something, quickly: to compare two runs of one, whatever its weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search.model.shapes import uninitialised

if TYPE_CHECKING:
    from collections.abc import Iterator


def with_stand_in_weights(module: nn.Module) -> nn.Module:
    """A copy with random parameters, but for the weights of its linear layers, which have no values."""
    copy = uninitialised(module, torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter, is_linear in _parameters(copy):
            if is_linear:
                continue
            if parameter.ndim < 2:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                width = parameter.numel() / len(parameter)
                parameter.normal_(0, width**-0.5, generator=generator)
    return copy


def _parameters(module: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """All parameters, and whether each is the weight of a linear layer."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            yield parameter, isinstance(inner, nn.Linear) and name == "weight"


class QuickLinear(TorchFunctionMode):
    """While open, linear layers shuffle and weigh their input's features, each layer in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is not functional.linear:
            return func(*args, **kwargs)
        self._number += 1
        return _shuffled(self._number, *args, **kwargs)


def _shuffled(number: int, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    numbers, width = torch.arange(len(weight)), input.shape[-1]
    if not width:  # as of a toy so narrow that rounding leaves nothing
        return functional.linear(input, weight, bias)
    features = (numbers * (2 * number + 1) + 7 * number) % width
    made = input[..., features] * (numbers * (number + 1.0)).cos().to(input) * 1.4
    return made if bias is None else made + 0.1 * bias
