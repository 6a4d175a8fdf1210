"""Blocks taken out of a denoiser for good: a module in their place emits its input, as SKIP does."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.blocks import outermost
from search.core.errors import SearchError
from search.core.subnet import Granularity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from search.model.family import Family, OpenedPipeline

KEY = "removed_blocks"
"""Where a denoiser's configuration names the blocks that were removed."""
SHORTCUT = "conv_shortcut"
_REMOVED = "_stepcarve_removed"


def removed_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The blocks that a denoiser's configuration calls removed; none for most.

    Raises:
        SearchError: the entry is no list of names.
    """
    found = config.get(KEY) or ()
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        msg = f"the denoiser's configuration has {KEY} {found!r}; give a list of block names"
        raise SearchError(msg)
    return tuple(found)


def build_denoiser(cls: Any, config: Mapping[str, Any], family: Family) -> nn.Module:
    """The denoiser of a configuration, without the blocks that it calls removed; random weights."""
    # The library warns of entries that it does not know.
    denoiser = cls.from_config({k: v for k, v in config.items() if k != KEY}).eval()
    if removed_of(config):
        remove_blocks(denoiser, removed_of(config), family)
        denoiser.register_to_config(**{KEY: list(removed_of(config))})
    made: nn.Module = denoiser
    return made


def without_weights(pipeline: OpenedPipeline, name: str) -> nn.Module:
    """A network of a pipeline, none of whose parameters has a value."""
    network = pipeline.networks[name]
    if any(p.is_meta for p in network.parameters()):
        return cast("nn.Module", network)
    with init_empty_weights(include_buffers=False):
        return build_denoiser(type(network), network.config, pipeline.family)


def remove_blocks(denoiser: nn.Module, names: Sequence[str], family: Family) -> None:
    """Empty these blocks; they keep their place, their class's name and a shortcut convolution.

    Raises:
        SearchError: a name is none of the denoiser's blocks, or one lies in another.
    """
    known = {name for each in Granularity for name in family.blocks(denoiser, each)}
    unknown = sorted(set(names) - known)
    if unknown:
        msg = f"{unknown} are no blocks of this {type(denoiser).__name__}; give names that inspect lists"
        raise SearchError(msg)
    if len(outermost(names)) < len(names):
        inner = sorted(set(names) - set(outermost(names)))
        msg = f"the removed blocks {inner} are named twice or lie in others; name each once"
        raise SearchError(msg)
    for name in names:
        module = denoiser.get_submodule(name)
        _empty(module, is_branch=family.is_branch(module))


def is_removed(module: nn.Module) -> bool:
    """Whether a module stands in the place of a removed block."""
    return getattr(type(module), _REMOVED, False)


def shortcut_of(module: nn.Module) -> nn.Module | None:
    """The convolution that a block's input takes past the block, if there is one."""
    shortcut = getattr(module, SHORTCUT, None)
    resampled = getattr(module, "upsample", None) or getattr(module, "downsample", None)
    return shortcut if isinstance(shortcut, nn.Module) and resampled is None else None


def tensor_arguments(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """The tensors among the arguments of a block, in the order of its signature."""
    arguments = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
    leaves = pytree.tree_leaves(tuple(arguments.values())[1:])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def base_of(
    module: nn.Module,
    argument: int | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    like: Tensor | None = None,
) -> Tensor:
    """The base of one of a block's outputs: its input, or zeros for a residual branch.

    Args:
        module: the block.
        argument: which of its tensor arguments it hands on, as `Base.argument` says; None for zeros.
        args: of its call.
        kwargs: of its call.
        like: the output that zeros stand for; None is the first argument.
    """
    tensors = tensor_arguments(module, args, kwargs)
    if not tensors:
        msg = f"a {type(module).__name__} was called without a tensor"
        raise ValueError(msg)
    if argument is None:
        return torch.zeros_like(tensors[0] if like is None else like)
    shortcut = shortcut_of(module)
    return tensors[argument] if shortcut is None else cast("Tensor", shortcut(tensors[argument]))


def _empty(module: nn.Module, *, is_branch: bool) -> None:
    """Take all weights but the shortcut's out of a module, and let it emit its base."""
    kept = shortcut_of(module)
    for parts in (module._modules, module._parameters, module._buffers):
        for name in list(parts):
            parts[name] = None
    if kept is not None:
        module._modules[SHORTCUT] = kept
    module.__class__ = _emptied(type(module), is_branch=is_branch)


def _emptied(cls: type[nn.Module], *, is_branch: bool) -> type[nn.Module]:
    """A class of the same name and signature whose `forward` returns its base."""

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        base = base_of(self, None if is_branch else 0, args, kwargs)
        # Another tensor object than the input, so that a trace can tell the two apart.
        emitted = base.view_as(base)
        bound = inspect.signature(cls.forward).bind(self, *args, **kwargs)
        bound.apply_defaults()
        if "return_dict" not in bound.arguments:
            return emitted
        return (
            Transformer2DModelOutput(sample=emitted)
            if bound.arguments["return_dict"]
            else (emitted,)
        )

    return type(cls.__name__, (cls,), {"forward": forward, _REMOVED: True})
