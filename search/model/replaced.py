"""Attributes replaced for the length of a `with` block."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.utils import _device

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch remembers, when it first needs them, the functions that a device context acts on: those that are
# torch's own, not what takes their place for a while. transformers would not load models right otherwise.
_device._device_constructors()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While open, the attribute `name` of an object, class or module is `value`."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
