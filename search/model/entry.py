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
    from collections.abc import Callable, Iterator, Mapping

FRAMES = ("num_frames", "video_length", "frames")
"""Names of the argument of a pipeline's call that says how many frames a video has."""
_SIZES = {"height": "height", "width": "width"} | dict.fromkeys(FRAMES, FRAMES[0])
"""What pipelines call the size that they prepare latents for, and what it is called here."""


def preparation_of(pipe: Any) -> str | None:
    """The pipeline's method that draws its initial noise; None where the call itself does."""
    if hasattr(pipe, "prepare_latents"):
        return "prepare_latents"
    for name in dir(type(pipe)):
        code = getattr(inspect.unwrap(getattr(type(pipe), name)), "__code__", None)
        if name.startswith("prepare_") and code and "randn_tensor" in code.co_names:
            return name
    return None


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

    def note(given: Mapping[str, Any], _: Any) -> None:
        found.update({to: int(given[name]) for name, to in _SIZES.items() if given.get(name)})

    with _preparation_watched(pipe, note):
        yield found


@contextmanager
def shape_noted(pipe: Any) -> Iterator[list[tuple[int, ...]]]:
    """While open, note the shape of the latents that the pipeline prepares."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Mapping[str, Any], made: Any) -> None:
        shapes.extend(tuple(x.shape) for x in pytree.tree_leaves(made) if isinstance(x, Tensor))

    with _preparation_watched(pipe, note):
        yield shapes


@contextmanager
def _preparation_watched(
    pipe: Any, note: Callable[[Mapping[str, Any], Any], None]
) -> Iterator[None]:
    """While open, what prepares the latents tells `note` its arguments and what it made."""
    name = preparation_of(pipe)
    if name is None:
        yield
        return
    original = getattr(pipe, name)

    @wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        note(inspect.signature(original).bind(*args, **kwargs).arguments, made)
        return made

    with with_parts(pipe, **{name: prepare}):
        yield


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

    name = preparation_of(pipe)
    if name is None:
        with noise_replaced(pipe, lambda shape, *_, **__: latents(drawn(shape))):
            yield
        return
    original = getattr(pipe, name)

    @wraps(original)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        first = next(leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))
        new = latents(first)
        return pytree.tree_map(lambda leaf: new if leaf is first else leaf, made)

    with noise_replaced(pipe, drawn), with_parts(pipe, **{name: prepare}):
        yield
