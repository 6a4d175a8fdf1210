"""Features of teacher and student, and how far they are apart."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.core.blocks import outermost
from search.distill.recipe import Loss
from search.model.removed import is_removed
from search.model.shapes import tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from search.core.subnet import Granularity
    from search.model.family import Family

Features = dict[str, list[Tensor]]


def surviving_blocks(student: nn.Module, family: Family, granularity: Granularity) -> list[str]:
    """The blocks whose outputs are compared: those in no other block that were not removed."""
    return [
        name
        for name in outermost(family.blocks(student, granularity))
        if not is_removed(student.get_submodule(name))
    ]


@contextmanager
def observed(denoiser: nn.Module, names: Sequence[str]) -> Iterator[Features]:
    """While open, the mapping holds what these modules emitted in the last call."""
    features: Features = {}

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        features[name] = tensors_of(output)

    with ExitStack() as stack:
        for name in names:
            handle = denoiser.get_submodule(name).register_forward_hook(partial(keep, name))
            stack.callback(handle.remove)
        yield features


def feature_loss(
    loss: Loss, teacher: Mapping[str, Sequence[Tensor]], student: Mapping[str, Sequence[Tensor]]
) -> Tensor:
    """Distance of all features; each tensor `[B, ...]`.

    normalized: sum over the layers of ||f_T - f_S||^2 / ||f_T||^2 per picture, the norm without
    gradient (LAPTOP-Diff, arXiv 2404.11098). plain: sum over the layers of the mean squared difference
    (BK-SDM, arXiv 2305.15798).
    """
    pairs = [
        (theirs.detach().float(), mine.float())
        for name in teacher
        for theirs, mine in zip(teacher[name], student[name], strict=True)
    ]
    if loss is Loss.PLAIN:
        return torch.stack([(mine - theirs).square().mean() for theirs, mine in pairs]).sum()
    return torch.stack([_relative(theirs, mine).mean() for theirs, mine in pairs]).sum()


def _relative(theirs: Tensor, mine: Tensor) -> Tensor:
    """Squared error per picture, relative to the squared norm of what is wanted."""
    norm = theirs.flatten(1).square().sum(1).clamp_min(torch.finfo(theirs.dtype).tiny)
    return (mine - theirs).flatten(1).square().sum(1) / norm


def prediction_loss(mine: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of predictions `[B, ...]`, each picture's with its weight `[B]`."""
    errors = (mine.float() - wanted.float()).flatten(1).square().mean(1)
    return (errors * weights).mean()
