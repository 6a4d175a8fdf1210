"""A denoiser that computes in another type than what is around it."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def compute_in(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Let a denoiser compute in `dtype`, take float32 and return it.

    So sampler, guidance and losses around it are float32. What its class keeps in float32 stays so.
    """
    for module in convertible_modules(denoiser):
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.to(dtype), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))
    forward = denoiser.forward

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        given, named = arguments_in(dtype, (args, kwargs))
        return results_in(torch.float32, forward(*given, **named))

    denoiser.forward = run


def convertible_modules(denoiser: nn.Module) -> list[nn.Module]:
    """The modules of a denoiser that its class does not keep in float32."""
    kept = set(getattr(denoiser, "_keep_in_fp32_modules", None) or ())
    return [module for name, module in denoiser.named_modules() if not kept & set(name.split("."))]


def arguments_in(dtype: torch.dtype, given: Any) -> Any:
    """Arguments of a denoiser in its type; a vector, such as the timestep, stays as it is."""

    def cast(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() and leaf.ndim > 1 else leaf

    return pytree.tree_map_only(Tensor, cast, given)


def results_in(dtype: torch.dtype, made: Any) -> Any:
    """What a denoiser returns, in another type."""

    def cast(leaf: Tensor) -> Tensor:
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    return pytree.tree_map_only(Tensor, cast, made)
