"""The gated reference: any SubNet run in PyTorch through diffusers' own pipeline."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.core.actions import Source
from search.core.errors import SearchError
from search.core.liveness import Unrolled, Value, unroll
from search.core.streams import block_name, is_inside, module_of, stream_of
from search.core.topology import PREDICTION, Target, TargetKind, port_of
from search.model.body import Body
from search.model.current_step import enter_step
from search.model.failures import pipeline_failures
from search.model.removed import base_of
from search.model.replaced import replaced
from search.model.scheduler import (
    GridScheduler,
    add_noise,
    noise_drawn_by,
    unused,
)
from search.model.shapes import as_placeholders, placeholder_output, tensors_of
from search.model.stand_in_scheduler import TableScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.timestep_grid import TimestepGrid
    from search.core.topology import Topology
    from search.model.family import Request
    from search.model.pipeline import Pipeline


@dataclass
class Trajectory:
    """What one run of a pipeline did; `B` images, `T` steps.

    Attributes:
        predictions: the noise prediction of each step, guidance applied, `[B, C, H, W]` each.
        latents: after each step, `[B, C, H, W]` each; the last are the final latents.
        inputs: the denoiser's latents input at each step as the scheduler scales it, `[B, ...]` each.
        images: `[B, height, width, 3]` float in 0..1.
    """

    predictions: list[Tensor] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    images: NDArray[Any] | None = None


def sample(
    pipeline: Pipeline,
    request: Request,
    subnet: SubNet | None = None,
    *,
    observe: Callable[[int, Target, Tensor], None] | None = None,
    generator: torch.Generator | None = None,
    grid: TimestepGrid | None = None,
) -> Trajectory:
    """Run diffusers' own pipeline, gated by `subnet` if there is one, and record it.

    Args:
        pipeline: with its weights loaded.
        request: what to sample.
        subnet: bound to this pipeline; None runs every block at every step.
        observe: called with (step, target, tensor) for each tensor that is computed: what a block
            emits, a residual that is kept, and what an action mixes.
        generator: draws the initial noise when the request brings none, and what the scheduler draws,
            even where the pipeline hands its scheduler no generator; None leaves that to torch's own.
        grid: takes the place of the request's steps; the request brings the latents that it begins
            from, if it does not begin from noise. None is that of `subnet`, if there is one.
    """
    if grid is None and subnet is not None:
        grid = subnet.binding.grid
    pipe, batch = pipeline.pipe, len(request.prompts)
    trajectory = Trajectory()
    if grid is not None:
        request = request.on(grid)
        if grid.adds_noise:
            request = _noised(pipeline, request, grid, generator)
    with ExitStack() as stack:
        if generator is not None:
            draw = partial(torch.randn, generator=generator)
            stack.enter_context(noise_drawn_by(pipe.scheduler, draw))
        if grid is not None and not grid.is_whole:
            part = GridScheduler(pipe.scheduler, grid)
            stack.enter_context(replaced(pipe, "scheduler", part))
        if subnet is not None:
            stack.enter_context(gated(pipeline.networks, subnet, observe=observe))
            if subnet.fitted is not None:
                scheduler = TableScheduler(subnet.fitted, pipe.scheduler.config)
                stack.enter_context(replaced(pipe, "scheduler", scheduler))
        stack.enter_context(_recorded(pipe, batch, trajectory))
        stack.enter_context(pipeline_failures(pipe))
        with torch.no_grad():
            trajectory.images = pipeline.family.call(pipe, request, generator)
    return trajectory


def _noised(
    pipeline: Pipeline, request: Request, grid: TimestepGrid, generator: torch.Generator | None
) -> Request:
    """The request with noise on its clean latents."""
    clean = request.latents
    if clean is None:
        msg = "clean latents to begin from are missing; give them with the request"
        raise SearchError(msg)
    settings, scheduler = (
        pipeline.grid_settings(grid, request.size),
        unused(pipeline.pipe.scheduler),
    )
    settings.apply(scheduler)
    body = Body(pipeline, replace(request, latents=None))
    noise = torch.randn(body.drawn, generator=generator)
    layout = body.layout()
    ordered = noise if layout is None else noise.flatten()[list(layout)]
    noised = add_noise(scheduler, settings, clean, ordered.reshape(clean.shape).to(clean))
    return replace(request, latents=noised)


@contextmanager
def gated(
    networks: nn.Module | Mapping[str, nn.Module],
    subnet: SubNet,
    *,
    steps: Sequence[int] | None = None,
    observe: Callable[[int, Target, Tensor], None] | None = None,
    recall: Callable[[int, Target], Tensor | None] | None = None,
    placeholders: dict[str, Any] | None = None,
) -> Iterator[None]:
    """While open, a denoiser obeys `subnet`; its calls are those of `steps`, and then it starts anew.

    Only live blocks are called: a step whose noise prediction is an earlier one calls nothing. On
    leaving, the denoiser is as it was.

    Args:
        networks: the denoiser, or all networks that the steps may call, by name; the denoiser first.
        subnet: of these.
        steps: those that are called; None is all. The others must have nothing to compute.
        observe: see `sample`.
        recall: gives what an earlier step computed, by (step, target), or None where nothing is known.
            It takes the place of what is kept, so that every call stands for itself, and `steps` may
            be any.
        placeholders: what modules that do not run return, by name; gates of one denoiser in one dtype
            and batch that come after each other may share them. None starts with none.
    """
    steps = range(subnet.steps) if steps is None else steps
    gate = _Gate(subnet, unroll(subnet), steps, observe, recall)
    if placeholders is not None:
        gate.placeholders, gate.keeps_placeholders = placeholders, True
    modules = _gated_modules(subnet.topology)
    with ExitStack() as stack:
        for network, streams in called_networks(networks, subnet.topology):
            for inner in sorted({module for stream, module in modules if stream in streams} - {""}):
                module = network.get_submodule(inner)
                forward = gate.around_module(inner, module, streams)
                stack.enter_context(forward_replaced(module, forward))
            forward = gate.around_network(network, streams)
            stack.enter_context(forward_replaced(network, forward))
        yield


def called_networks(
    networks: nn.Module | Mapping[str, nn.Module], topology: Topology
) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """The networks that the steps of a topology call, with the streams in which they are called."""
    if isinstance(networks, nn.Module):
        return [(networks, topology.streams)]
    if topology.groups is None:
        return [(next(iter(networks.values())), topology.streams)]
    called = topology.groups.networks
    return [
        (network, streams)
        for name, network in networks.items()
        if (streams := tuple(stream for stream, each in called if each == name))
    ]


def _gated_modules(topology: Topology) -> list[tuple[str, str]]:
    """The modules that a gate decides about: their stream and their name."""
    units = {u for segment in topology.segments for u in segment.units}
    # A module around a block always runs: what the block emits may leave through it.
    around = {name for name in units for block in topology.blocks if is_inside(block, name)}
    names, streams = (units - around) | set(topology.blocks), topology.streams
    return [(stream_of(name, streams), module_of(name, streams)) for name in names]


class _Gate:
    """Decides, at each step, whether a module runs or emits an earlier value.

    What is computed is kept under its number in the unrolled loop until no later step has it.
    """

    def __init__(
        self,
        subnet: SubNet,
        unrolled: Unrolled,
        steps: Sequence[int],
        observe: Callable[[int, Target, Tensor], None] | None,
        recall: Callable[[int, Target], Tensor | None] | None,
    ) -> None:
        topology = subnet.topology
        self.observe, self.recall = observe, recall
        self.ports = dict(zip(topology.blocks, topology.ports_of, strict=True))
        self.topology, self.computed = topology, unrolled.computed
        self.running = [
            frozenset(unit for segment in segments for unit in segment.units)
            | _around({p for t in computed for p in (t.port, t.base) if p >= 0}, topology)
            for segments, computed in zip(unrolled.segments, self.computed, strict=True)
        ]
        self.unrolled, self.effective, self.values = unrolled, unrolled.effective, unrolled.values
        self.made = [
            {unrolled.values[number].target: number for number in made} for made in unrolled.made
        ]
        self.last = {n: t for t, row in enumerate(unrolled.effective) for n in row.values()}
        for number, step in unrolled.last_reads.items():
            self.last[number] = max(step, self.last.get(number, 0))
        self.plan = [
            (step, stream, call == 0)
            for step in steps
            for call, stream in enumerate(topology.calls_of(step))
        ]
        self.calls = 0
        self.step, self.stream = -1, ""
        self.kept: dict[int, Any] = {}
        self.bases: dict[int, Tensor] = {}
        self.outputs: dict[tuple[int, str], Any] = {}
        self.placeholders: dict[str, Any] = {}
        self.keeps_placeholders = False

    def around_network(self, network: nn.Module, streams: Sequence[str]) -> Callable[..., Any]:
        """A network's `forward`, counting the calls and called only where a step needs it."""
        forward = network.forward
        whole = {s: self._gated(s, network, forward) for s in streams if s in self.ports}

        def run(*args: Any, **kwargs: Any) -> Any:
            number = self.calls % len(self.plan)
            step, self.stream, begins = self.plan[number]
            if begins:
                self._begin(step, anew=number == 0)
            self.calls += 1
            key = self.effective[self.step][PREDICTION], self.stream
            if self.computed[self.step]:
                output = whole.get(self.stream, forward)(*args, **kwargs)
                self.outputs.setdefault(key, output)
            return self.outputs[key]

        return run

    def _begin(self, step: int, *, anew: bool) -> None:
        """Prepare for the first call of a step."""
        self.step = step
        enter_step(step)
        if anew:
            self.kept.clear()
            self.outputs.clear()
            if not self.keeps_placeholders:
                self.placeholders.clear()
        self.kept = self._remembered()
        self.outputs = {
            key: each for key, each in self.outputs.items() if self.last.get(key[0], 0) >= self.step
        }
        self.bases.clear()

    def _remembered(self) -> dict[int, Any]:
        """What earlier steps computed and this or a later one has."""
        if self.recall is None:
            return {n: each for n, each in self.kept.items() if self.last.get(n, 0) >= self.step}
        found: dict[int, Any] = {}
        numbers = {
            *self.effective[self.step].values(),
            *self.unrolled.cache_reads[self.step].values(),
        }
        for number in numbers:
            value = self.values[number]
            if value.step < self.step:
                tensor = self.recall(value.step, value.target)
                found |= {} if tensor is None else {number: tensor}
        return found

    def around_module(
        self, name: str, module: nn.Module, streams: Sequence[str]
    ) -> Callable[..., Any]:
        """A submodule's `forward` in every stream, called only where it is needed."""
        forward = module.forward
        gated = {
            stream: self._gated(block_name(stream, name), module, forward) for stream in streams
        }
        return lambda *args, **kwargs: gated[self.stream](*args, **kwargs)

    def _gated(
        self, name: str, module: nn.Module, forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The `forward` of a module in one stream.

        A block that is not computed may still have to run for the sake of a block inside it; then
        its own result is thrown away.
        """
        ports = self.ports.get(name, ())

        def run(*args: Any, **kwargs: Any) -> Any:
            if name in self.running[self.step]:
                output = forward(*args, **kwargs)
                self.placeholders[name] = as_placeholders(output)
            else:
                if name not in self.placeholders:
                    self.placeholders[name] = placeholder_output(module, args, kwargs)
                output = self.placeholders[name]
            tensors = tensors_of(output)
            for port in ports:
                emitted = tensors[self.topology.ports[port].index]
                if any(target.base == port for target in self.computed[self.step]):
                    self.bases[port] = self._base(port, module, args, kwargs, emitted)
                self._keep_all(port, emitted)
            return self._in_effect(ports, tensors, output)

        return run

    def _base(self, port: int, module: nn.Module, args: Any, kwargs: Any, like: Tensor) -> Tensor:
        """The base of a port of a module that is called; `like` is what that makes."""
        base = self.topology.bases[port]
        if base.prediction is None:
            return base_of(module, base.argument, args, kwargs, like)
        tensor: Tensor = self.kept[self.effective[self.step][port_of(base.prediction)]]
        return tensor

    def _keep_all(self, port: int, emitted: Tensor) -> None:
        """Keep what this step computes of a port; `emitted` is what its block makes, if it runs."""
        for target, number in self.made[self.step].items():
            if target.port != port:
                continue
            if target.kind is TargetKind.MIX:
                tensor = self._mixed(self.values[number])
            else:
                is_residual = target.kind is TargetKind.RESIDUAL
                tensor = emitted - self.bases[target.base] if is_residual else emitted
            self.kept[number] = tensor
            if self.observe is not None:
                self.observe(self.step, target, tensor)

    def _mixed(self, value: Value) -> Tensor:
        """What an action makes of its sources."""
        cached = iter(value.reads[-sum(s is not Source.BASE for s, _ in value.weights) :])
        total: Tensor | None = None
        for source, weight in value.weights:
            is_base = source is Source.BASE
            tensor = self.bases[value.target.base] if is_base else self.kept[next(cached)]
            term = tensor if weight == 1 else weight * tensor
            total = term if total is None else total + term
        assert total is not None
        return total

    def _in_effect(self, ports: Sequence[int], tensors: Sequence[Tensor], output: Any) -> Any:
        """`output`, of these tensors, with those that this step has; the others are not read."""
        row = self.effective[self.step]
        mine = {
            id(tensors[self.topology.ports[port].index]): self.kept[row[port_of(port)]]
            for port in ports
            if row.get(port_of(port)) in self.kept
        }
        return pytree.tree_map(lambda leaf: mine.get(id(leaf), leaf), output)


def _around(ports: set[int], topology: Topology) -> frozenset[str]:
    """The modules that must run so that the blocks of these ports are reached at all."""
    found = set()
    for port in ports:
        name = topology.blocks[topology.ports[port].block]
        stream, module = stream_of(name, topology.streams), module_of(name, topology.streams)
        parts = module.split(".")
        found |= {block_name(stream, ".".join(parts[:i])) for i in range(len(parts))}
        if name in topology.streams:
            found.add(name)
    return frozenset(found - {""})


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, calling `module` calls `forward`."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


@contextmanager
def _recorded(pipe: Any, batch: int, trajectory: Trajectory) -> Iterator[None]:
    """Record what goes into the denoiser and through the scheduler; the first `batch` of each."""
    step = pipe.scheduler.step
    scale = getattr(pipe.scheduler, "scale_model_input", None)
    scaled: list[Tensor] = []

    def record_scaled(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = scale(sample, *args, **kwargs)  # type: ignore[misc]
        scaled[:] = [result]
        return result

    @wraps(step)
    def record_step(prediction: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
        trajectory.inputs.append((scaled.pop() if scaled else sample)[:batch].clone())
        result = step(prediction, timestep, sample, **kwargs)
        latents = result[0] if isinstance(result, tuple) else result.prev_sample
        trajectory.predictions.append(prediction[:batch].clone())
        trajectory.latents.append(latents[:batch].clone())
        if not torch.isfinite(latents).all():
            at = len(trajectory.latents) - 1
            msg = (
                f"the latents after step {at} of the PyTorch reference are not finite; "
                "check the pipeline's weights and the guidance scale"
            )
            raise SearchError(msg)
        return result

    recorded = {"step": record_step} | (
        {} if scale is None else {"scale_model_input": record_scaled}
    )
    vars(pipe.scheduler).update(recorded)
    try:
        yield
    finally:
        for name in recorded:
            del vars(pipe.scheduler)[name]
