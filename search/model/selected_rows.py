"""As many rows of a tensor as a mask says, in programs whose shapes are fixed.

Some denoisers take the tokens of their text that are no padding (`text[mask]`), put them together with
others and fill up to a fixed length again. How many there are is known only when the program runs. So
the rows stay where they are, with a mask beside them, until the length is a fixed one again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, eq=False)
class Mask:
    """Which rows are taken.

    Attributes:
        keep: bool `[N]`.
        parts: of these N, one after the other: a mask, whether it is inverted here, and how many.
    """

    keep: Tensor
    parts: tuple[tuple[Tensor, bool, int], ...]

    @property
    def count(self) -> int | None:
        """How many are taken: known if for each mask there is its inverse. None if it is not known."""
        taken = Counter((id(mask), inverted) for mask, inverted, _ in self.parts)
        if any(taken[mask, not inverted] != n for (mask, inverted), n in taken.items()):
            return None
        return sum(length for _, inverted, length in self.parts if not inverted)

    def order(self) -> Tensor:
        """The rows that are taken, then the others, `[N]`."""
        length = len(self.keep)
        place = torch.arange(length, dtype=torch.int32, device=self.keep.device)
        return torch.where(self.keep, place, place + length).argsort()


class _Numbers:
    """Numbers of the rows that are taken: what `nonzero` gives."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def flatten(self) -> Self:
        """The same."""
        return self


@dataclass(frozen=True, eq=False)
class SelectedRows:
    """The rows of a tensor that a mask takes; its other rows are there, but nobody sees them.

    Attributes:
        whole: `[..., N, ...]`.
        dim: of the rows; not negative.
        mask: of them.
    """

    whole: Tensor
    dim: int
    mask: Mask

    @property
    def shape(self) -> torch.Size:
        """With as many rows as there may be."""
        return self.whole.shape

    def size(self, dim: int) -> int:
        """Likewise."""
        return self.whole.shape[dim]

    def moved(self) -> Tensor:
        """The rows that are taken, then the others, `[..., N, ...]`."""
        return self.whole.index_select(self.dim, self.mask.order())

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What the functions of torch make of it."""
        del types
        if func not in _RULES:
            raise _unknown(getattr(func, "__name__", str(func)))
        return _RULES[func](*args, **(kwargs or {}))


class AllRowsSelected(TorchFunctionMode):
    """While open, masks take all rows of a tensor: what is no text among them is known otherwise."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Calls functions, but for those that take rows."""
        del types
        index = args[1] if func is Tensor.__getitem__ else None
        if isinstance(index, Tensor) and index.dtype is torch.bool and index.ndim:
            return args[0].flatten(0, index.ndim - 1)
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool and index.ndim == 1


class RowsSelected(TorchFunctionMode):
    """While open, tensors indexed with masks give `SelectedRows`."""

    def __init__(self) -> None:
        super().__init__()
        self._inverses: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Calls functions, but for those that take rows."""
        del types
        made: Any
        if func is Tensor.__getitem__ and isinstance(args[0], Tensor):
            made = self._taken(args[0], args[1])
            if made is not None:
                return made
        elif _asks_numbers(func, args, kwargs or {}):
            return _Numbers(self._mask(args[0].bool()))
        made = func(*args, **(kwargs or {}))
        if func in _INVERTING:
            self._inverses[id(made)] = made, args[0]
        return made

    def _mask(self, keep: Tensor) -> Mask:
        _, source = self._inverses.get(id(keep), (keep, keep))
        return Mask(keep, ((source, source is not keep, len(keep)),))

    def _taken(self, whole: Tensor, index: Any) -> SelectedRows | None:
        """The rows that a mask, or the numbers of its rows, take; None if it is another index."""
        if _is_mask(index):
            return SelectedRows(whole, 0, self._mask(index))
        if not isinstance(index, tuple):
            return None
        found = [place for place, each in enumerate(index) if isinstance(each, _Numbers)]
        if not found:
            return None
        if any(not isinstance(each, slice) for each in index if not isinstance(each, _Numbers)):
            return None
        [dim] = found
        rest = tuple(slice(None) if place == dim else each for place, each in enumerate(index))
        return SelectedRows(whole[rest], dim, index[dim].mask)


def _unknown(name: str) -> SearchError:
    return SearchError(
        "the denoiser selects rows of a tensor by a mask, and then uses them in a way that has "
        f"no fixed shape ({name}); such pipelines are not supported"
    )


def _asks_numbers(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the numbers of the rows that a mask takes are asked for."""
    is_asked = func in (torch.nonzero, Tensor.nonzero) and not kwargs.get("as_tuple", False)
    return is_asked and args[0].ndim == 1


_INVERTING = frozenset(
    [
        Tensor.__invert__,
        Tensor.logical_not,
        Tensor.bitwise_not,
        torch.logical_not,
        torch.bitwise_not,
    ]
)


def _joined(tensors: Sequence[Any], dim: int = 0) -> SelectedRows:
    """Rows of several tensors, one after the other."""
    first = next(each for each in tensors if isinstance(each, SelectedRows))
    place = dim % first.whole.ndim
    parts = [each if isinstance(each, SelectedRows) else _all(each, place) for each in tensors]
    if any(each.dim != place for each in parts):
        raise _unknown("cat")
    mask = Mask(
        torch.cat([each.mask.keep for each in parts]),
        tuple(part for each in parts for part in each.mask.parts),
    )
    return SelectedRows(torch.cat([each.whole for each in parts], dim), place, mask)


def _all(tensor: Tensor, dim: int) -> SelectedRows:
    """All rows of a tensor."""
    keep = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
    return SelectedRows(tensor, dim, Mask(keep, ((keep, False, len(keep)), (keep, True, 0))))


def _stacked(tensors: Sequence[SelectedRows], dim: int = 0) -> Tensor:
    """Tensors of a fixed number of rows each."""
    return torch.stack([_fixed(each) for each in tensors], dim)


def _fixed(selected: SelectedRows) -> Tensor:
    count = selected.mask.count
    if count is None:
        raise _unknown("stack")
    return selected.moved().narrow(selected.dim, 0, count)


def _filled_up(
    selected: SelectedRows, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """The rows that are taken, and others of one value behind them."""
    behind = 2 * (selected.whole.ndim - 1 - selected.dim)
    if mode != "constant" or any(pad[:behind]) or any(pad[behind + 2 :]) or pad[behind]:
        raise _unknown("pad")
    moved = functional.pad(selected.moved(), pad, value=value or 0)
    place = torch.arange(moved.shape[selected.dim], device=moved.device)
    shape = [-1 if dim == selected.dim else 1 for dim in range(moved.ndim)]
    is_taken = (place < selected.mask.keep.sum()).reshape(shape)
    filled: Tensor = torch.where(is_taken, moved, torch.full((), value or 0, dtype=moved.dtype))
    return filled


def _attended(query: Any, key: Any, value: Any, *args: Any, **settings: Any) -> Any:
    """Attention to the keys that are taken, of rows of queries."""
    if args or settings.pop("attn_mask", None) is not None or settings.get("is_causal"):
        raise _unknown("scaled_dot_product_attention")
    keys, values = (each.whole if isinstance(each, SelectedRows) else each for each in (key, value))
    mask = key.mask.keep[None] if isinstance(key, SelectedRows) else None
    rows = query.whole if isinstance(query, SelectedRows) else query
    made = functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, **settings)
    return replace(query, whole=made) if isinstance(query, SelectedRows) else made


_RULES: dict[Any, Callable[..., Any]] = {
    torch.cat: _joined,
    torch.stack: _stacked,
    torch.zeros_like: lambda selected: replace(selected, whole=torch.zeros_like(selected.whole)),
    functional.pad: _filled_up,
    functional.scaled_dot_product_attention: _attended,
}
"""Functions of torch that take such rows."""
