"""The gated reference: any SubNet run in PyTorch through diffusers' own pipeline."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import SearchError
from search.liveness import Unrolled, unroll
from search.model.scheduler import TableScheduler
from search.model.trace import first_tensor, shortcut_of, tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from search.model.family import Family, Request
    from search.model.pipeline import Pipeline
    from search.subnet import SubNet


@dataclass
class Trajectory:
    """What one run of a pipeline did; `B` images, `T` steps.

    Attributes:
        predictions: the noise prediction of each step, guidance applied, `[B, C, H, W]` each.
        latents: after each step, `[B, C, H, W]` each; the last are the final latents.
        inputs: the denoiser's latents input at each step, `[B, C, H, W]` each.
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
    observe: Callable[[int, int, Tensor], None] | None = None,
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Run diffusers' own pipeline, gated by `subnet` if there is one, and record it.

    Args:
        pipeline: with its weights loaded.
        request: what to sample.
        subnet: bound to this pipeline; None runs every block at every step.
        observe: called with (step, target, tensor) for each tensor that is computed: what a block
            emits, a residual that is kept, and what DELTA emits.
        generator: draws the initial noise when the request brings none.
    """
    family, pipe = pipeline.family, pipeline.pipe
    batch = len(request.prompts)
    trajectory = Trajectory()
    with ExitStack() as stack:
        if subnet is not None:
            stack.enter_context(gated(pipeline.denoiser, subnet, observe=observe))
            if subnet.fitted is not None:
                scheduler = TableScheduler(subnet.fitted, pipe.scheduler.config)
                stack.enter_context(mock.patch.object(pipe, "scheduler", scheduler))
        stack.enter_context(_recorded(pipe, pipeline.denoiser, family, batch, trajectory))
        with torch.no_grad():
            trajectory.images = family.call(pipe, request, generator)
    return trajectory


@contextmanager
def gated(
    denoiser: nn.Module,
    subnet: SubNet,
    *,
    observe: Callable[[int, int, Tensor], None] | None = None,
) -> Iterator[None]:
    """While open, `denoiser` obeys `subnet`; call k of it is step k, and the table repeats.

    Only live blocks are called: a step whose noise prediction is an earlier one calls nothing. On
    leaving, the denoiser is as it was.
    """
    gate = _Gate(subnet, unroll(subnet), observe)
    blocks = set(subnet.topology.blocks)
    units = {u for segment in subnet.topology.segments for u in segment.units}
    # A module around a block always runs: what the block emits may leave through it.
    around = {name for name in units for block in blocks if block.startswith(f"{name}.")}
    with ExitStack() as stack:
        for name in sorted((units - around) | blocks):
            module = denoiser.get_submodule(name)
            forward = (
                gate.around_block(name, module)
                if name in gate.deltas
                else gate.around_unit(name, module.forward)
            )
            stack.enter_context(forward_replaced(module, forward))
        stack.enter_context(forward_replaced(denoiser, gate.around_denoiser(denoiser.forward)))
        yield


class _Gate:
    """Decides, at each step, whether a module runs or emits what it emitted before."""

    def __init__(
        self,
        subnet: SubNet,
        unrolled: Unrolled,
        observe: Callable[[int, int, Tensor], None] | None,
    ) -> None:
        topology = subnet.topology
        self.observe = observe
        self.ports = dict(zip(topology.blocks, topology.ports_of, strict=True))
        self.index = {i: port.index for i, port in enumerate(topology.ports)}
        self.deltas = {topology.blocks[block]: block for block in topology.deltas}
        self.topology, self.computed = topology, unrolled.computed
        self.running = [
            frozenset(unit for segment in segments for unit in segment.units)
            | _around({topology.block(target) for target in computed}, topology.blocks)
            for segments, computed in zip(unrolled.segments, self.computed, strict=True)
        ]
        self.step = -1
        self.emitted: dict[str, Any] = {}
        self.residuals: dict[str, Tensor] = {}

    def around_denoiser(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The denoiser's `forward`, counting steps and called only where a step needs it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.step = (self.step + 1) % len(self.computed)
            if self.step == 0:
                self.emitted.clear()
                self.residuals.clear()
            if self.computed[self.step]:
                self.emitted[""] = forward(*args, **kwargs)
            return self.emitted[""]

        return run

    def around_unit(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A submodule's `forward`, replaced by its last output where it is not needed.

        A block that is not computed may still have to run for the sake of a block inside it; then
        its own result is thrown away.
        """
        ports = self.ports.get(name, ())

        def run(*args: Any, **kwargs: Any) -> Any:
            computed = [port for port in ports if port in self.computed[self.step]]
            runs = name in self.running[self.step] or name not in self.emitted
            if not runs:
                return self.emitted[name]
            output = forward(*args, **kwargs)
            if ports and not computed and name in self.emitted:
                return self.emitted[name]
            self.emitted[name] = output if ports else pytree.tree_map(_hollow, output)
            tensors = tensors_of(output)
            for port in computed:
                self._observe(port, tensors[self.index[port]])
            return output

        return run

    def around_block(self, name: str, module: nn.Module) -> Callable[..., Any]:
        """As `around_unit`, for a block that allows DELTA."""
        forward = self.around_unit(name, module.forward)
        residual, total = (
            of(self.deltas[name]) for of in (self.topology.residual, self.topology.sum)
        )

        def run(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if residual in self.computed[self.step]:
                self.residuals[name] = tensors_of(output)[0] - base_of(module, args, kwargs)
                self._observe(residual, self.residuals[name])
            if total in self.computed[self.step]:
                value = base_of(module, args, kwargs) + self.residuals[name]
                self._observe(total, value)
                self.emitted[name] = pytree.tree_map(
                    lambda leaf: value if isinstance(leaf, Tensor) else leaf, self.emitted[name]
                )
            return self.emitted[name]

        return run

    def _observe(self, target: int, tensor: Tensor) -> None:
        if self.observe is not None:
            self.observe(self.step, target, tensor)


def _around(blocks: set[int | None], names: tuple[str, ...]) -> frozenset[str]:
    """The modules that must run so that these blocks are reached at all."""
    parts = [names[block].split(".") for block in blocks if block is not None]
    return frozenset(".".join(each[:i]) for each in parts for i in range(1, len(each)))


def base_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What a block that allows DELTA would emit if it did nothing."""
    entered, shortcut = first_tensor(module, args, kwargs), shortcut_of(module)
    if entered is None:
        msg = f"a {type(module).__name__} was called without a tensor"
        raise ValueError(msg)
    return entered if shortcut is None else cast("Tensor", shortcut(entered))


def _hollow(leaf: Any) -> Any:
    """A tensor of the same shape that takes no memory: its content is never used."""
    return leaf.new_zeros(()).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf


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
def _recorded(
    pipe: Any, denoiser: nn.Module, family: Family, batch: int, trajectory: Trajectory
) -> Iterator[None]:
    """Record what goes into the denoiser and through the scheduler; the first `batch` of each."""
    import inspect

    signature = inspect.signature(type(denoiser).forward)
    call, step = denoiser.forward, pipe.scheduler.step

    def record_call(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(denoiser, *args, **kwargs).arguments
        trajectory.inputs.append(arguments[family.sample][:batch].clone())
        return call(*args, **kwargs)

    def record_step(prediction: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = step(prediction, *args, **kwargs)
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

    pipe.scheduler.step = record_step
    try:
        with forward_replaced(denoiser, record_call):
            yield
    finally:
        del pipe.scheduler.step
