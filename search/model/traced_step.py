"""The module that is traced: a body that also gives what its blocks emit and are given."""

from __future__ import annotations

from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.streams import block_name
from search.model.computing import arguments_in, results_in
from search.model.live_lora import live_loras, scale_input, scaled
from search.model.removed import (
    is_removed,
    shortcut_of,
    tensor_arguments,
)
from search.model.replaced import replaced
from search.model.selected_rows import RowsSelected
from search.model.shapes import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


class TracedCalls(NamedTuple):
    """The calls of the networks that the bodies make, for the trace to tell them apart.

    Attributes:
        groups: per body, the streams of its calls, in order.
        networks: per stream, the part of the pipeline that is called.
    """

    groups: tuple[tuple[str, ...], ...]
    networks: dict[str, str]

    @property
    def streams(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.networks)

    @property
    def first(self) -> dict[str, str]:
        """Per later call of a step, the first one."""
        return {later: calls[0] for calls in self.groups for later in calls[1:]}


class TracedStep(nn.Module):
    """Bodies, one per group of steps, that also return what the blocks emit and are given.

    A call that an earlier body made already is not made again. `found` is filled with the number of the
    output that each tensor is, and `order` with the stream of each call of a network; "" is one that
    does not count.
    """

    def __init__(
        self,
        bodies: Sequence[Body],
        networks: dict[str, nn.Module],
        parts: dict[str, nn.Module],
        modules: dict[str, list[str]],
        calls: TracedCalls,
        found: dict[Output, int],
        order: dict[str, list[str]],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.denoiser, *others = networks.values()
        if others:
            self.networks = nn.ModuleDict(dict(zip(list(networks)[1:], others, strict=True)))
        self.parts = nn.ModuleDict(parts)
        self.live = live_loras(networks.values())
        # In functions, because export undoes what a module writes to its own attributes.
        self.report, self.count = found.update, order.update
        self.bodies: Callable[[], Sequence[Body]] = lambda: bodies
        self.watch: Callable[[], _Watch] = lambda: _Watch(
            networks, list(parts.values()), modules, calls, dtype
        )

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the predictions and every distinct tensor that a block emits or is given."""
        given = dict(inputs)
        sample, timestep, guidance = (given.pop(name) for name in (SAMPLE, TIMESTEP, GUIDANCE))
        scales = {name: given.pop(scale_input(name)) for name in self.live}
        predictions = []
        with self.watch() as watch, RowsSelected(), scaled(watch.by_name.values(), scales):
            for body in self.bodies():
                watch.begin(body)
                made = body(
                    sample,
                    timestep,
                    guidance=guidance,
                    conditions=given,
                    networks=watch.by_name,
                    parts=dict(self.parts.items()),
                ).to(sample.dtype)
                # What a call gives may be a group's prediction as it is, and is a block's output too.
                predictions.append(made.clone() if len(self.bodies()) > 1 else made)
        # Two blocks may hand on the same tensor; it belongs to the one that made it.
        distinct: dict[int, Tensor] = {}
        found: dict[Output, int] = {}
        before = len(predictions) - 1
        for name, tensors in watch.emitted.items():
            for index, tensor in enumerate(tensors):
                if id(tensor) not in distinct:
                    distinct[id(tensor)] = tensor
                    found[Output(name, index)] = before + len(distinct)
        for name, tensors in watch.given.items():
            shapes = {tensor.shape for tensor in watch.emitted[name]}
            for index, tensor in enumerate(tensors):
                if tensor.shape not in shapes:
                    continue
                distinct.setdefault(id(tensor), tensor)
                place = before + 1 + list(distinct).index(id(tensor))
                found[Output(name, index, is_given=True)] = place
        self.report(found)
        self.count(watch.order)
        return *predictions, *(watch.held[each] for each in distinct)


class _Watch(ExitStack):
    """While open, keeps what blocks emit, and those of their arguments that they could hand on.

    It also lets the networks and the parts around them compute in their own dtype: see `arguments_in`.

    Attributes:
        by_name: the networks.
        emitted: the tensors by block, in order of execution.
        given: likewise.
        order: per network, the stream of each of its calls; "" is one that does not count.
        held: per tensor's id, an alias of it. An operation that changes nothing, such as a cast to its
            own dtype, gives back the tensor itself as its result; of the alias nobody makes anything.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        parts: list[nn.Module],
        modules: dict[str, list[str]],
        calls: TracedCalls,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.by_name = networks
        self.emitted: dict[str, list[Tensor]] = {}
        self.given: dict[str, list[Tensor]] = {}
        self.order: dict[str, list[str]] = {name: [] for name in networks}
        self.held: dict[int, Tensor] = {}
        self._tensors: list[Tensor] = []
        self._calls, self._dtype = calls, dtype
        self._body: Body | None = None
        self._next: Iterator[str] = iter(())
        self._groups = iter(calls.groups)
        self._stream, self._repeats = "", False
        self._returned: dict[str, Any] = {}
        for network, module in networks.items():
            self._watch_network(network, module, modules[network])
        for part in parts:
            self.callback(part.register_forward_pre_hook(self._given, with_kwargs=True).remove)
            self.callback(part.register_forward_hook(self._cast_back).remove)

    def begin(self, body: Body) -> None:
        """What follows is the run of this body."""
        self._body, self._next = body, iter(next(self._groups))

    @property
    def _counts(self) -> bool:
        """Whether what runs now is of the step that is traced."""
        return self._body is not None and not self._body.is_before

    def _watch_network(self, network: str, module: nn.Module, modules: list[str]) -> None:
        forward = module.forward

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            self._stream = next(self._next) if self._counts else ""
            self._repeats = self._counts and self._stream in self._returned
            self.order[network].append(self._stream)
            return self._given(module, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._repeats:
                return self._returned[self._stream]
            return forward(*args, **kwargs)

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            made = self._cast_back(module, args, output)
            if self._counts:
                self._returned[self._stream] = made
            return made

        if len(self._calls.groups) > 1:
            self.enter_context(replaced(module, "forward", wraps(forward)(run)))
        handle = module.register_forward_hook(leave)
        self.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        watched = {name: module.get_submodule(name) for name in modules}
        if len(self._calls.streams) > 1:
            watched[""] = module
        for name, each in watched.items():
            self._watch(name, each)
        self.callback(handle.remove)

    def _given(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        del module
        return arguments_in(self._dtype, (args, kwargs))

    def _cast_back(self, module: nn.Module, args: Any, output: Any) -> Any:
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
            self.given[block_name(self._stream, name)][0] = output
            self._hold([output])

        def keep_given(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._repeats or not self._counts:
                return
            given = tensor_arguments(module, args, kwargs)
            self.given[block_name(self._stream, name)] = given
            self._hold(given)

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            del args, kwargs
            block = block_name(self._stream, name)
            if self._repeats or not self._counts:
                return None
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
