"""The module that is traced: a body that also gives what its blocks emit and are given."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.streams import block_name, stream_names
from search.model.computing import arguments_in, results_in
from search.model.hollow import tensors_of
from search.model.live_lora import live_loras, scale_input, scaled
from search.model.removed import (
    is_removed,
    shortcut_of,
    tensor_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.model.body import Body


class Output(NamedTuple):
    """An extra output of the trace: a tensor that a block emits, or one that it is given.

    Attributes:
        block: name of the block.
        tensor: index among the tensors that it emits, or among its tensor arguments.
        is_given: whether it is an argument; what the block's shortcut convolution makes of its first
            argument stands in the place of that.
    """

    block: str
    tensor: int
    is_given: bool = False


class TracedStep(nn.Module):
    """A body that also returns what the blocks emit and are given.

    A call fills `found` with the number of the output that each of these is.
    """

    def __init__(
        self,
        body: Body,
        denoiser: nn.Module,
        parts: dict[str, nn.Module],
        modules: list[str],
        found: dict[Output, int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.parts = nn.ModuleDict(parts)
        self.live = live_loras([denoiser])
        # In functions, because export undoes what a module writes to its own attributes.
        self.body, self.report = body.__call__, found.update
        self.watch: Callable[[], _Watch] = lambda: _Watch(
            denoiser, list(parts.values()), modules, stream_names(len(body.uses)), dtype
        )

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the prediction and every distinct tensor that a block emits or is given."""
        given = dict(inputs)
        sample, timestep, guidance = (given.pop(name) for name in (SAMPLE, TIMESTEP, GUIDANCE))
        scales = {name: given.pop(scale_input(name)) for name in self.live}
        with self.watch() as watch, scaled([self.denoiser], scales):
            prediction = self.body(
                sample,
                timestep,
                guidance=guidance,
                conditions=given,
                denoiser=self.denoiser,
                parts=dict(self.parts.items()),
            ).to(sample.dtype)
        # Two blocks may hand on the same tensor; it belongs to the one that made it.
        distinct: dict[int, Tensor] = {}
        found: dict[Output, int] = {}
        for name, tensors in watch.emitted.items():
            for index, tensor in enumerate(tensors):
                if id(tensor) not in distinct:
                    distinct[id(tensor)] = tensor
                    found[Output(name, index)] = len(distinct)
        for name, tensors in watch.given.items():
            shapes = {tensor.shape for tensor in watch.emitted[name]}
            for index, tensor in enumerate(tensors):
                if tensor.shape not in shapes:
                    continue
                distinct.setdefault(id(tensor), tensor)
                place = 1 + list(distinct).index(id(tensor))
                found[Output(name, index, is_given=True)] = place
        self.report(found)
        return prediction, *(watch.held[each] for each in distinct)


class _Watch(ExitStack):
    """While open, keeps what blocks emit, and those of their arguments that they could hand on.

    It also lets the denoiser and the parts around it compute in their own dtype: see `arguments_in`.

    Attributes:
        emitted: the tensors by block, in order of execution.
        given: likewise.
        held: per tensor's id, an alias of it. An operation that changes nothing, such as a cast to its
            own dtype, gives back the tensor itself as its result; of the alias nobody makes anything.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        parts: list[nn.Module],
        modules: list[str],
        streams: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.emitted: dict[str, list[Tensor]] = {}
        self.given: dict[str, list[Tensor]] = {}
        self.held: dict[int, Tensor] = {}
        self._tensors: list[Tensor] = []
        self._streams, self._dtype, self._call = streams, dtype, -1
        enter = denoiser.register_forward_pre_hook(self._enter, with_kwargs=True)
        leave = denoiser.register_forward_hook(self._leave)
        self.callback(enter.remove)
        watched = {name: denoiser.get_submodule(name) for name in modules}
        if len(streams) > 1:
            watched[""] = denoiser
        for name, module in watched.items():
            self._watch(name, module)
        self.callback(leave.remove)
        for part in parts:
            self.callback(part.register_forward_pre_hook(self._given, with_kwargs=True).remove)
            self.callback(part.register_forward_hook(self._leave).remove)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._call += 1
        return self._given(module, args, kwargs)

    def _given(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        del module
        return arguments_in(self._dtype, (args, kwargs))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        return results_in(torch.float32, output)

    def _hold(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self.held:
                self.held[id(tensor)] = torch.ops.aten.alias.default(tensor)
                self._tensors.append(tensor)

    def _watch(self, name: str, module: nn.Module) -> None:
        shortcut = shortcut_of(module)

        def keep_shortcut(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            self.given[block_name(self._streams[self._call], name)][0] = output
            self._hold([output])

        def keep_given(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = tensor_arguments(module, args, kwargs)
            self.given[block_name(self._streams[self._call], name)] = given
            self._hold(given)

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            del args, kwargs
            block = block_name(self._streams[self._call], name)
            self.emitted[block] = tensors_of(output)
            self._hold(self.emitted[block])
            if not is_removed(module):
                return None
            # What a block around it hands on is that block's own.
            return pytree.tree_map_only(Tensor, lambda tensor: tensor.view_as(tensor), output)

        self.callback(module.register_forward_pre_hook(keep_given, with_kwargs=True).remove)
        self.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        if shortcut is not None:
            self.callback(shortcut.register_forward_hook(keep_shortcut).remove)
