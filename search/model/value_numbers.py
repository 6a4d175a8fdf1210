"""Numbers for the tensors of a run: equal numbers are computed alike, from the same inputs.

What is computed of nothing but constants is known by its content, so a constant may come from anywhere.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

_Steps = frozenset[int]


class ValueNumber(NamedTuple):
    """What a tensor is computed from, and how.

    Attributes:
        value: equal for what is computed alike.
        steps: of the loop whose inputs it is computed from.
    """

    value: int
    steps: _Steps = frozenset()


class ValueNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, numbers what torch computes.

    Args:
        input_of: what an input of the run is called, and at which step it enters; None for a tensor that
            is none.
    """

    def __init__(self, input_of: Callable[[Tensor], tuple[Hashable, _Steps] | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._input_of = input_of
        self._values: dict[Hashable, int] = {}
        self._numbers: Any = WeakTensorKeyDictionary()
        self._written: dict[int, int] = {}
        self._kept: list[Any] = []
        self._paused = 0

    def pause(self) -> None:
        """Number nothing until `resume` is called as often."""
        self._paused += 1

    def resume(self) -> None:
        """Go on."""
        self._paused -= 1

    def number(self, leaf: Any) -> ValueNumber:
        """The number of a tensor, or of anything else that an operation is given."""
        if not isinstance(leaf, Tensor):
            return ValueNumber(self._value(("constant", type(leaf), repr(leaf))))
        found = self._known(leaf)
        return ValueNumber(self._value(("content", _digest(leaf)))) if found is None else found

    def mark_input(self, tensor: Tensor, name: Hashable, *steps: int) -> None:
        """Let a tensor be an input that enters at these steps."""
        self._mark(tensor, ValueNumber(self._value(("input", name)), frozenset(steps)))

    def mark(self, tensor: Tensor, *how: Any) -> None:
        """Let a tensor be what `how` says; numbers in it stand for what it is computed from."""
        parts = [part for part in how if isinstance(part, ValueNumber)]
        steps = frozenset[int]().union(*(part.steps for part in parts))
        expression = tuple(part.value if isinstance(part, ValueNumber) else part for part in how)
        self._mark(tensor, ValueNumber(self._value(expression), steps))

    def _mark(self, tensor: Tensor, number: ValueNumber) -> None:
        self._numbers[tensor] = number, self._written.get(_storage(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and number what it gives."""
        del types
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        # What a model without weights computes are shapes.
        if self._paused or any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return func(*args, **kwargs)
        if not any(isinstance(leaf, Tensor) and self._known(leaf) is not None for leaf in leaves):
            return func(*args, **kwargs)
        # Before the operation: it may write to what it is given.
        given = [self.number(leaf) for leaf in leaves]
        made = func(*args, **kwargs)
        self._note_writes(func, args, given)
        self._note(made, (str(func), *given))
        return made

    def _note(self, made: Any, how: Iterable[Any]) -> None:
        for place, leaf in enumerate(pytree.tree_leaves(made)):
            if isinstance(leaf, Tensor):
                self.mark(leaf, *how, place)

    def _note_writes(self, func: Any, args: Any, given: list[ValueNumber]) -> None:
        """Let all that share memory with what an operation writes to be other values from now on."""
        for place, argument in enumerate(func._schema.arguments[: len(args)]):
            if argument.alias_info is not None and argument.alias_info.is_write:
                storage = _storage(args[place])
                self._kept.append(args[place].untyped_storage())
                how = (str(func), self._written.get(storage), *(each.value for each in given))
                self._written[storage] = self._value(how)

    def _known(self, tensor: Tensor) -> ValueNumber | None:
        """The number of a tensor that depends on an input; None of a constant."""
        named = self._input_of(tensor)
        if named is not None:
            return ValueNumber(self._value(("input", named[0])), named[1])
        written = self._written.get(_storage(tensor))
        if tensor in self._numbers:
            number, before = self._numbers[tensor]
            if written == before:
                return number  # type: ignore[no-any-return]
            return ValueNumber(self._value(("written", number.value, written)), number.steps)
        if written is None:
            return None
        return ValueNumber(self._value(("written", _geometry(tensor), written)))

    def _value(self, expression: Hashable) -> int:
        return self._values.setdefault(expression, len(self._values))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset(), str(tensor.dtype)


def _digest(tensor: Tensor) -> str:
    """Of a constant."""
    if tensor.is_meta:
        return f"meta {_geometry(tensor)}"
    flat = tensor.detach().cpu().contiguous().flatten()
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode() + content).hexdigest()
