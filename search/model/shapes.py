"""Modules with uninitialised parameters, and runs that compute shapes only."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree

from search.model.computing import arguments_in, convertible_modules
from search.model.replaced import replaced
from search.model.selected_rows import RowsSelected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from search.model.answers import Answers


def uninitialised(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy on the CPU whose parameters are allocated but not initialised, so their memory is never touched.

    Buffers and other tensors that the class computes keep their values.

    Args:
        module: to copy; its parameters may be on the meta device.
        dtype: of floating-point parameters and buffers, except in modules that the class keeps in
            float32; None changes none.
    """
    known: dict[int, Any] = {}
    for parameter in module.parameters():
        there = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        known[id(parameter)] = nn.Parameter(there, requires_grad=False)
    for buffer in module.buffers():
        if type(buffer) is not Tensor:  # a subclass that cannot be copied deeply
            known[id(buffer)] = buffer.clone()
    copied: nn.Module = copy.deepcopy(module, known)
    vars(copied).pop("forward", None)
    return make_uninitialised(copied, dtype)


def make_uninitialised(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Likewise, in place."""
    converted = set(map(id, convertible_modules(module)))
    for inner in module.modules():
        to = dtype if id(inner) in converted else None
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                room = torch.empty(parameter.shape, dtype=to or parameter.dtype)
                inner._parameters[name] = nn.Parameter(room, requires_grad=False)
        for name, buffer in inner._buffers.items():
            if buffer is not None and to is not None and buffer.is_floating_point():
                inner._buffers[name] = buffer.to(to)
    return module.eval()


class _Shapes:
    """A denoiser run on fake tensors, always by the same copy and in the same mode.

    Modules may cache what they compute; such caches must not reach a real run.

    Attributes:
        copy: of the denoiser, uninitialised.
        mode: of its fake tensors.
        known: outputs by the arguments' shapes, of calls that read no tensor's value.
    """

    def __init__(self, module: nn.Module) -> None:
        self.copy = uninitialised(module)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.known: dict[Any, Any] = {}


_SHAPES: WeakKeyDictionary[nn.Module, _Shapes] = WeakKeyDictionary()


@contextmanager
def shapes_only(module: nn.Module, answers: Answers) -> Iterator[None]:
    """While open, calling `module` returns zeros of the right shapes and computes nothing.

    Its hooks are called. If it reads the value of a tensor that has none, it is run on real tensors.

    Args:
        module: a denoiser; its parameters may be on the meta device.
        answers: records the values that it reads.
    """
    forward = type(module).forward
    if module not in _SHAPES:
        _SHAPES[module] = _Shapes(module)
    shapes = _SHAPES[module]

    @wraps(forward)
    def run(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
        key = _key(args, kwargs)
        if key in shapes.known:
            return shapes.known[key]
        before = len(answers.known)
        given, named = _in_dtype(shapes.copy, (args, kwargs))
        try:
            output = placeholder_output(shapes.copy, given, named, shapes.mode)
        except (DataDependentOutputException, DynamicOutputShapeException):
            del answers.known[before:]
            return as_placeholders(forward(uninitialised(module), *given, **named))
        if len(answers.known) == before:
            shapes.known[key] = output
        return output

    with replaced(module, "forward", MethodType(run, module)):
        yield


def _key(args: Any, kwargs: Any) -> tuple[Any, ...]:
    """What decides the shapes that a call returns."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    return structure, *(
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves
    )


def _in_dtype(module: nn.Module, given: Any) -> Any:
    """Arguments of a denoiser in its dtype, except vectors such as the timestep."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return arguments_in(dtype, given)


def placeholder_output(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    mode: FakeTensorMode | None = None,
) -> Any:
    """A placeholder of a module's output: its structure, shapes and dtypes.

    It runs on fake tensors, so nothing is computed; hooks and gates in it are not called.
    """

    def plain(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return type(module).forward(module, *args, **kwargs)

    with replaced(nn.Module, "__call__", plain):
        return shapes_of(module, args, kwargs, mode)


def shapes_of(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    mode: FakeTensorMode | None = None,
    method: str = "forward",
) -> Any:
    """Likewise for any method of a module, with the hooks of the modules in it."""
    with mode or FakeTensorMode(allow_non_fake_inputs=True) as opened, RowsSelected():
        fake_args, fake_kwargs = pytree.tree_map(
            lambda leaf: opened.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf,
            (tuple(args), dict(kwargs)),
        )
        output = getattr(type(module), method)(module, *fake_args, **fake_kwargs)
    return as_placeholders(output)


def as_placeholders(output: Any) -> Any:
    """`output` with its tensors replaced by zeros of the same shape without storage; shared tensors stay shared."""
    placeholders = {
        id(t): torch.zeros((), dtype=t.dtype, device=t.device).expand(t.shape)
        for t in tensors_of(output)
    }
    return pytree.tree_map(lambda leaf: placeholders.get(id(leaf), leaf), output)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a block returns, in a fixed order: the ports of the block."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
