"""Where latents enter a pipeline's call: the noise that it draws and what it prepares of it."""

from __future__ import annotations

import inspect
import math
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.model.parts_in_place import with_parts
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIZES = ("height", "width", "num_frames")


@contextmanager
def noise_replaced(pipe: Any, draw: Callable[..., Tensor]) -> Iterator[None]:
    """While open, the pipeline's initial noise is `draw(shape, ...)`."""
    module = inspect.getmodule(inspect.unwrap(type(pipe).__call__))
    with replaced(module, "randn_tensor", draw):
        yield


@contextmanager
def sizes_noted(pipe: Any) -> Iterator[dict[str, int]]:
    """While open, note for which height, width and frames the pipeline prepares its latents."""
    found: dict[str, int] = {}
    original = getattr(pipe, "prepare_latents", None)
    if original is None:
        yield found
        return

    @wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        found.update({name: int(given[name]) for name in _SIZES if given.get(name) is not None})
        return original(*args, **kwargs)

    with with_parts(pipe, prepare_latents=prepare):
        yield found


@contextmanager
def numbered_noise(pipe: Any) -> Iterator[list[tuple[int, ...]]]:
    """While open, what the pipeline draws is numbered element by element; gives the shapes."""
    shapes: list[tuple[int, ...]] = []

    def number(
        shape: tuple[int, ...], generator: Any = None, device: Any = None, **_: Any
    ) -> Tensor:
        shapes.append(tuple(shape))
        if generator is not None:
            torch.randn(tuple(shape), generator=generator)  # so that the next noise is the same
        numbers = torch.arange(math.prod(shape), dtype=torch.float32, device=device)
        return numbers.reshape(tuple(shape))

    with noise_replaced(pipe, number):
        yield shapes


def in_latents(made: Tensor, stepped: Tensor) -> Tensor:
    """What a pipeline prepared, with `stepped` in the place of what its scheduler steps.

    That is all of it, or, where the pipeline appends to its latents what stays as it is, what is before.
    """
    if made.ndim != stepped.ndim:
        return stepped
    axes = [n for n in range(1, made.ndim) if made.shape[n] > stepped.shape[n]]
    if len(axes) != 1:
        return stepped
    [axis], size = axes, stepped.shape[axes[0]]
    rest = made.narrow(axis, size, made.shape[axis] - size)
    return torch.cat([stepped, rest.to(stepped)], axis)


@contextmanager
def latents_replaced(pipe: Any, latents: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the pipeline draws ones for noise; its latents are `latents(those it makes of them)`."""

    def drawn(shape: tuple[int, ...], *_: Any, device: Any = None, **__: Any) -> Tensor:
        return torch.ones(tuple(shape), device=device)

    original = getattr(pipe, "prepare_latents", None)
    if original is None:
        with noise_replaced(pipe, lambda shape, *_, **__: latents(drawn(shape))):
            yield
        return

    @wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        first = next(leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))
        new = latents(first)
        return pytree.tree_map(lambda leaf: new if leaf is first else leaf, made)

    with noise_replaced(pipe, drawn), with_parts(pipe, prepare_latents=prepare):
        yield
