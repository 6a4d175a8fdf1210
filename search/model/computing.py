"""Modules that compute in another type than what is around them."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.model.parts_in_place import with_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_METHODS = ("forward", "encode", "decode")
"""By which pipelines call their parts."""


def compute_in(module: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """Let a part of a pipeline compute in `dtype`, take float32 and return it; returns what undoes it.

    So sampler, guidance and losses around a denoiser are float32. What the class of the part keeps in
    float32 stays so.
    """
    before, methods = _convert(module, dtype), _methods_in(module, dtype)
    vars(module).update(methods)

    def undo() -> None:
        for tensors, name, tensor in before:
            tensors[name] = tensor
        for name in methods:
            del vars(module)[name]

    return undo


@contextmanager
def computing_in(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While open, a part whose weights are in `dtype` takes float32 and returns it."""
    with with_parts(module, **_methods_in(module, dtype)):
        yield


def _methods_in(module: nn.Module, dtype: torch.dtype) -> dict[str, Callable[..., Any]]:
    """The methods of a part with their arguments cast to `dtype` and their results to float32."""

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            given, named = arguments_in(dtype, (args, kwargs))
            return results_in(torch.float32, method(*given, **named))

        return run

    return {name: around(getattr(module, name)) for name in _METHODS if hasattr(module, name)}


def _convert(module: nn.Module, dtype: torch.dtype) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Cast the weights of a part in place; returns those before, and where they were."""
    before: list[tuple[dict[str, Any], str, Tensor]] = []
    for inner in convertible_modules(module):
        held: tuple[dict[str, Any], ...] = (inner._parameters, inner._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is None or not tensor.is_floating_point() or tensor.dtype == dtype:
                    continue
                before.append((tensors, name, tensor))
                cast = tensor.detach().to(dtype)
                is_weight = isinstance(tensor, nn.Parameter)
                tensors[name] = nn.Parameter(cast, tensor.requires_grad) if is_weight else cast
    return before


def convertible_modules(module: nn.Module) -> list[nn.Module]:
    """The modules of a part that its class does not keep in float32."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return [inner for name, inner in module.named_modules() if not kept & set(name.split("."))]


def arguments_in(dtype: torch.dtype, given: Any) -> Any:
    """Arguments of a part in its type; a vector, such as the timestep, stays as it is."""

    def cast(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() and leaf.ndim > 1 else leaf

    return pytree.tree_map_only(Tensor, cast, given)


def results_in(dtype: torch.dtype, made: Any) -> Any:
    """What a part returns, in another type."""

    def cast(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return pytree.tree_map_only(Tensor, cast, made)
