"""Modules that compute in another dtype than that of their weights, which are not copied."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import nn


class CastTensor(torch.Tensor):
    """A tensor that enters every operation in another dtype than it is stored in.

    It reports that dtype. The cast copy lives as long as the operation does.

    Attributes:
        stored: the tensor that it casts.
    """

    stored: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, stored: torch.Tensor, dtype: torch.dtype) -> Self:
        """Without storage of its own."""
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls, stored.shape, strides=stored.stride(), dtype=dtype, device=stored.device
        )
        return made

    def __init__(self, stored: torch.Tensor, dtype: torch.dtype) -> None:
        del dtype
        self.stored = stored

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func` on cast copies."""
        del types
        args, kwargs = pytree.tree_map_only(
            cls, lambda each: each.stored.to(each.dtype), (tuple(args), dict(kwargs or {}))
        )
        return func(*args, **kwargs)


@contextmanager
def cast_weights(modules: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """While open, these modules, without those inside them, compute in `dtype`; no weight is changed."""
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in modules:
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_floating_point():
                        replaced.append((tensors, name, tensor))
                        tensors[name] = CastTensor(tensor.detach(), dtype)  # type: ignore[assignment]
        yield
    finally:
        for tensors, name, tensor in reversed(replaced):
            tensors[name] = tensor
