"""LoRAs that stay beside the weights: their scales are inputs of what is traced."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor, nn

_PREFIX = "lora_scale__"


def scale_input(lora: str) -> str:
    """The input that is the scale of a LoRA."""
    return f"{_PREFIX}{lora}"


def live_loras(modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """Names of the LoRAs beside the weights of these modules."""
    return tuple(dict.fromkeys(name for layer in _layers(modules) for name in layer.scaling))


@contextmanager
def scaled(modules: Iterable[nn.Module], scales: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, what LoRAs change is multiplied by these scales `[1]`, by the LoRA's name."""
    before: list[tuple[Any, str, Any]] = []
    for layer in _layers(modules):
        dtype = next(layer.parameters()).dtype
        for name in scales.keys() & layer.scaling.keys():
            before.append((layer, name, layer.scaling[name]))
            layer.set_scale(name, scales[name].to(dtype))
    try:
        yield
    finally:
        for layer, name, scale in before:
            layer.scaling[name] = scale


def _layers(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """The layers that LoRAs stand beside, as peft makes them."""
    for module in modules:
        for layer in module.modules():
            if hasattr(layer, "lora_A") and hasattr(layer, "scaling"):
                yield layer
