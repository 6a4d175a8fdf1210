"""Which steps of a pipeline's loop do the same: its own loop, run without computing anything.

What a step does is how its prediction is computed: from latents, timestep, conditions and guidance scale,
by calls of networks and by what the pipeline does around them. Steps that do it alike are a group.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.core.groups import Groups, Kind, grouped
from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.model.answers import Answers, tensors_as_numbers
from search.model.encoding import Encoding
from search.model.entry import latents_replaced
from search.model.failures import pipeline_failures
from search.model.guiders import without_memory
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.shapes import shapes_only
from search.model.stand_in_scheduler import StandIn
from search.model.stopping_scheduler import as_often
from search.model.value_numbers import ValueNumber, ValueNumbers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from search.model.family import OpenedPipeline, Request


MOST = 8
"""Calls that differ, in all steps together."""
_NEXT = "next timestep"


def groups_of_steps(
    pipeline: OpenedPipeline, request: Request, timesteps: Sequence[float]
) -> Groups | None:
    """The groups of the steps at these timesteps; None if all do the same by calls of the denoiser.

    Raises:
        SearchError: a step depends on more than its latents, timestep and conditions.
    """
    walk = _Walk(pipeline, request, timesteps)
    walk.run()
    groups = list(dict.fromkeys(walk.predictions))
    of_steps = [groups.index(each) for each in walk.predictions]
    calls = [walk.calls[of_steps.index(group)] for group in range(len(groups))]
    kinds = {kind for group in calls for kind in group}
    networks = {kind.network for kind in kinds}
    if len(kinds) > MOST:
        msg = (
            f"{type(pipeline.pipe).__name__} calls {', '.join(sorted(networks))} in "
            f"{len(kinds)} ways at {len(of_steps)} steps, for example because it reads the "
            f"timestep as a number, and each way needs a graph of its own; at most {MOST} are "
            "supported"
        )
        raise SearchError(msg)
    if walk.looks_ahead and len(set(timesteps)) < len(timesteps):
        msg = (
            f"{type(pipeline.pipe).__name__} reads the timestep of the next step, but two steps of this "
            "grid have the same timestep and different next ones; choose another --scheduler"
        )
        raise SearchError(msg)
    is_one = len(groups) == 1 and not walk.looks_ahead
    if is_one and networks <= {pipeline.family.component}:
        return None
    return grouped(of_steps, calls)


class _WalkedError(Exception):
    """Ends the pipeline's call behind its last step."""


class _Walk:
    """One run of a pipeline's loop on shapes.

    Attributes:
        predictions: per step, the number of its prediction.
        calls: per step, those of the networks.
        looks_ahead: whether a step reads the timestep of the next one.
    """

    def __init__(
        self, pipeline: OpenedPipeline, request: Request, timesteps: Sequence[float]
    ) -> None:
        self.predictions: list[int] = []
        self.calls: list[tuple[Kind, ...]] = []
        self.looks_ahead = False
        self._pipeline, self._pipe = pipeline, pipeline.pipe
        self._pictures = len(request.prompts) * request.images
        self._guidance = torch.tensor(float(request.guidance))
        guides = request.is_guided
        self._request = replace(request, latents=None, guidance=self._guidance, guides=guides)
        self._timesteps = torch.tensor(timesteps)
        self._encoding, self._answers = Encoding(self._pipe), Answers()
        self._given: list[tuple[Hashable, ...]] = []
        self._latents, self._is_folded = torch.empty(0), False
        self._made: list[Kind] = []
        self._kinds: dict[tuple[Hashable, ...], Kind] = {}
        self.numbers = ValueNumbers(self._input)
        self.numbers.mark_input(self._guidance, GUIDANCE)
        self._base: Tensor | None = None
        self._around: Tensor | None = None

    def run(self) -> None:
        """Run the loop."""
        scheduler = _Noting(self._timesteps, self._pipe.scheduler, self.step)
        with (
            pipeline_failures(self._pipe),
            on_vae_device(self._pipe),
            with_gradients(self._pipe),
            tensors_as_numbers(),
            with_parts(self._pipe, scheduler=scheduler),
            self._encoding.noted(),
            self._answers.recorded(lambda: self._encoding.is_encoding, self._timesteps),
            latents_replaced(self._pipe, self._entering),
            torch.no_grad(),
            self.numbers,
            ExitStack() as stack,
        ):
            for network in self._pipeline.networks.values():
                stack.enter_context(shapes_only(network, self._answers))
            for name, part in self._pipe.components.items():
                if isinstance(part, nn.Module):
                    self._watch(stack, name, part)
            with suppress(_WalkedError):
                self._pipeline.family.call(self._pipe, self._request, None)
        if not self.predictions:
            msg = (
                f"{type(self._pipe).__name__} steps copies of its scheduler instead of the "
                "scheduler itself, for example for frames at different noise levels; such "
                "pipelines are not supported"
            )
            raise SearchError(msg)

    def step(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """End a step; the latents that the next one begins with."""
        number, now = self.numbers.number(prediction), len(self.predictions)
        if not number.steps <= {now}:
            advice = without_memory(self._pipe) or "such pipelines are not supported"
            msg = (
                f"{type(self._pipe).__name__} carries a value other than the latents from step "
                f"{min(number.steps)} to step {now}, as guidance with momentum does; {advice}"
            )
            raise SearchError(msg)
        self.predictions.append(number.value)
        self.calls.append(tuple(self._made))
        self._made.clear()
        self._given.clear()
        if len(self.predictions) == len(self._timesteps):
            raise _WalkedError
        if len(sample) != self._pictures and sample.numel() == self._latents.numel():
            self._is_folded = True
            return sample.clone()
        self._note_around(sample)
        entering = self._entering(sample[: self._pictures])
        return as_often(entering, sample)

    def _note_around(self, sample: Tensor) -> None:
        """Note what a pipeline writes its latents into, if nothing else in it changes."""
        base = sample._base
        if base is None or base.numel() == sample.numel():
            return
        around = base.clone()
        around.as_strided(sample.shape, sample.stride(), sample.storage_offset()).zero_()
        if self._around is None:
            self._around = around
        self._base = base if torch.equal(self._around, around) else None

    def _entering(self, latents: Tensor) -> Tensor:
        """These latents, as those that a step begins with."""
        self._latents = fresh = latents.clone()
        self.numbers.mark_input(fresh, SAMPLE, len(self.predictions))
        return fresh

    def _input(self, tensor: Tensor) -> tuple[Hashable, frozenset[int]] | None:
        """What an input of the body is called, and the steps at which it enters."""
        for name, condition in self._encoding.conditions.items():
            if tensor is condition:
                return name, frozenset()
        times = self._timesteps
        now = len(self.predictions)
        # What the scheduler gets in another shape is known by its values once it has its own again.
        is_like = self._is_folded and tensor.shape == self._latents.shape
        if tensor is self._base or (is_like and torch.equal(tensor, self._latents)):
            return SAMPLE, frozenset({now})
        if tensor.numel() != 1 or tensor.is_meta or isinstance(tensor, FakeTensor):
            return None
        ahead = tensor.data_ptr() - times.data_ptr() - now * times.element_size()
        if ahead == 0:
            return TIMESTEP, frozenset({now})
        if ahead == times.element_size() and now + 1 < len(times):
            self.looks_ahead = True
            return _NEXT, frozenset({now})
        return None

    def _watch(self, stack: ExitStack, name: str, part: nn.Module) -> None:
        """Let the calls of a part that does not encode be single operations."""

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            del module
            if self._encoding.is_encoding:
                return
            given, structure = pytree.tree_flatten((args, kwargs))
            entered.append([str(structure), *map(self.numbers.number, given)])
            self.numbers.pause()

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            del module, args, kwargs
            if self._encoding.is_encoding:
                return None
            how = entered.pop()
            # Equal shapes may have given the same tensor at another call.
            fresh = pytree.tree_map_only(Tensor, torch.clone, output)
            self.numbers.resume()
            for place, leaf in enumerate(pytree.tree_leaves(fresh)):
                if isinstance(leaf, Tensor):
                    self.numbers.mark(leaf, name, *how, place)
            if name in self._pipeline.networks:
                given = (each.value if isinstance(each, ValueNumber) else each for each in how)
                self._note_call(name, tuple(given))
            return fresh

        entered: list[list[ValueNumber | str]] = []
        stack.callback(part.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(part.register_forward_hook(leave, with_kwargs=True).remove)

    def _note_call(self, network: str, given: tuple[Hashable, ...]) -> None:
        """Note a call of a network; a step may make one twice."""
        key = (network, given, self._given.count((network, given)))
        self._given.append((network, given))
        self._made.append(self._kinds.setdefault(key, Kind(network, len(self._kinds))))


class _Noting(StandIn):
    """A stand-in for a scheduler whose steps return what `note(prediction, sample)` does."""

    def __init__(
        self, timesteps: Tensor, own: Any, note: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__(timesteps, own)
        self._note_step = note

    def stepped(self, prediction: Tensor, sample: Tensor) -> Tensor:
        """Note what was done since the last one."""
        return self._note_step(prediction, sample)
