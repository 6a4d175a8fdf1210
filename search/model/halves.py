"""How many pictures a pipeline's call makes, so that a batch of twice as many rows is known to have two halves."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES: ContextVar[int] = ContextVar("pictures", default=0)


@contextmanager
def making(pictures: int) -> Iterator[None]:
    """While open, a call makes so many."""
    token = PICTURES.set(pictures)
    try:
        yield
    finally:
        PICTURES.reset(token)
