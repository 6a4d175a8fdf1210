"""One call of the denoiser for both halves of guidance, made as two: the prompt's, then the other.

Most pipelines of diffusers put the prompt and the negative prompt into one batch. Split, they are two streams
with blocks of their own, as in pipelines that make two calls. The pipeline's call is left as it is: the network
takes the whole batch, calls itself for each half, and puts the results together.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.model.answers import Answers
from search.model.body import Body
from search.model.family import Request
from search.model.halves import PICTURES
from search.model.shapes import shapes_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.model.family import OpenedPipeline

SCALE = 3.0
"""At which it is seen which half is the prompt's: its share of the prediction is larger."""


def split_streams(
    pipeline: OpenedPipeline, is_both: Callable[[Tensor], bool] | None = None
) -> None:
    """Let the networks of a pipeline call themselves for each half of a guided batch, for good.

    Args:
        pipeline: of diffusers.
        is_both: whether the samples `[B, ...]` of a call are those of both halves; None: there are twice as
            many as pictures.

    Raises:
        SearchError: it does not put both halves into one batch, or that is a list.
    """
    body = Body(pipeline, Request((pipeline.default_prompt,), 2, SCALE))
    rows = [use.rows for use in body.uses]
    if rows != [2 * body.pictures]:
        how = (
            f"already calls its denoiser {len(rows)} times per step"
            if len(rows) > 1
            else f"calls it with {rows[0]} rows for a picture with guidance, not with two halves"
        )
        msg = f"{type(pipeline.pipe).__name__} {how}; leave out --split-streams"
        raise SearchError(msg)
    if not body.uses[0].is_batch:
        msg = (
            f"{type(pipeline.pipe).__name__} gives its denoiser a list of samples, which is not split; leave out "
            "--split-streams"
        )
        raise SearchError(msg)
    is_first = _prompt_is_first(pipeline, body)
    # Networks that may take each other's place are known by having one class.
    networks = list(pipeline.networks.values())
    split = _split_class(
        type(networks[0]), prompt_is_first=is_first, is_both=is_both or _are_twice_the_pictures
    )
    for network in networks:
        network.__class__ = split


@contextmanager
def streams_split(pipeline: OpenedPipeline) -> Iterator[None]:
    """While open, its streams are split, whoever calls it; both halves of a batch have the same latents.

    Raises:
        SearchError: see `split_streams`; while open, also for a call without guidance.
    """
    before = {network: type(network) for network in pipeline.networks.values()}
    split_streams(pipeline, _require_both)
    try:
        yield
    finally:
        for network, cls in before.items():
            network.__class__ = cls


def _are_twice_the_pictures(samples: Tensor) -> bool:
    return len(samples) == 2 * PICTURES.get()


def _require_both(samples: Tensor) -> bool:
    first, *second = samples.chunk(2)
    if not second or not torch.equal(first, second[0]):
        msg = "the SubNet that is applied is for guidance, and this call is without; give a guidance scale above 1"
        raise SearchError(msg)
    return True


def _prompt_is_first(pipeline: OpenedPipeline, body: Body) -> bool:
    """Whether the first half of the batch has the larger share in the prediction."""
    return _share_of(0, pipeline, body) > _share_of(1, pipeline, body)


def _share_of(half: int, pipeline: OpenedPipeline, body: Body) -> float:
    """How large a prediction is made of ones in this half of the batch and zeros in the other."""

    def only(module: Any, args: Any, output: Any) -> Any:
        del module, args
        return pytree.tree_map_only(Tensor, lambda made: _ones_in(made, half), output)

    networks = pipeline.networks.values()
    with ExitStack() as stack, torch.no_grad():
        for part in (*networks, *body.parts_around.values()):
            stack.enter_context(shapes_only(part, Answers()))
        for network in networks:
            stack.callback(network.register_forward_hook(only).remove)
        made = body(torch.zeros(body.pictures, *body.latent_shape), torch.tensor(1.0))
    return abs(float(made.mean()))


def _ones_in(made: Tensor, half: int) -> Tensor:
    """Zeros like `made`, with ones in one half of the rows."""
    filled = torch.zeros(made.shape, dtype=made.dtype)
    filled.chunk(2)[half].fill_(1)
    return filled


def _split_class(
    cls: type[nn.Module], *, prompt_is_first: bool, is_both: Callable[[Tensor], bool]
) -> type[nn.Module]:
    """A class of networks like `cls` that call themselves for each half."""
    order = (0, 1) if prompt_is_first else (1, 0)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        samples = _samples(cls, self, args, kwargs)
        if samples is None or not is_both(samples):
            return cls.__call__(self, *args, **kwargs)
        made: dict[int, Any] = {}
        for half in order:
            given, named = _half_of((args, kwargs), half, len(samples))
            made[half] = cls.__call__(self, *given, **named)
        return pytree.tree_map(_joined, made[0], made[1])

    own = {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), own)


def _samples(cls: type[nn.Module], module: nn.Module, args: Any, kwargs: Any) -> Tensor | None:
    """The first argument; None if that is no tensor."""
    bound = inspect.signature(cls.forward).bind(module, *args, **kwargs).arguments
    first = next(iter([*bound.values()][1:]), None)
    return first if isinstance(first, Tensor) and first.ndim else None


def _half_of(given: Any, half: int, rows: int) -> Any:
    """The arguments for one half: what has as many rows as the batch is cut."""

    def cut(leaf: Tensor) -> Tensor:
        return leaf.chunk(2)[half] if leaf.ndim and len(leaf) == rows else leaf

    return pytree.tree_map_only(Tensor, cut, given)


def _joined(first: Any, second: Any) -> Any:
    return torch.cat([first, second]) if isinstance(first, Tensor) and first.ndim else first
