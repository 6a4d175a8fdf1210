"""A SubNet in a pipeline of diffusers that you loaded: its blocks gated, its sampler in place.

    from diffusers import StableDiffusionPipeline
    from search import apply

    pipe = StableDiffusionPipeline.from_pretrained("examples/shapes/shapes-sd")
    with apply(pipe, "subnet.json") as applied:
        pipe("a large red cross", num_inference_steps=applied.inference_steps, guidance_scale=4)

Nothing is compiled or exported: a block that does not run at a step is not called. `stepcarve search`
makes the file.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from search.core.errors import SearchError
from search.core.groups import require_one_group
from search.core.liveness import unroll
from search.core.sampler import refused_scale
from search.core.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

__all__ = ["Applied", "apply"]

_MARK = "_stepcarve_applied"


class Applied:
    """A SubNet in effect, until `remove` is called or the `with` block ends.

    Attributes:
        subnet: the SubNet that the pipeline runs.
        inference_steps: the `num_inference_steps` to call the pipeline with.
        split: what is open for it besides, such as streams that are split.
    """

    def __init__(
        self,
        pipe: Any,
        denoiser: nn.Module,
        subnet: SubNet,
        compiler: Compiler | None,
    ) -> None:
        from search.model.replaced import replaced

        self.subnet = subnet
        fitted, grid = subnet.fitted, subnet.binding.grid
        self.inference_steps: int = grid.inference_steps if fitted is None else subnet.steps
        self._pipe, self._denoiser = pipe, denoiser
        self._sampler, self._gates, self.split = ExitStack(), ExitStack(), ExitStack()
        self._plain = {name: module.forward for name, module in denoiser.named_modules()}
        self._ungated = _always_inside(subnet)
        if compiler is not None:
            self._plain |= {n: compiler(self._plain[n]) for n in _whole_blocks(subnet)}
        self._gate_of: dict[str, Callable[..., Any]] = {}
        self._entries: dict[str, Callable[..., Any]] = {}
        self._gate()
        self._sampler.enter_context(replaced(pipe, "scheduler", self._scheduler()))

    def remove(self) -> None:
        """Restore the pipeline; calling it again does nothing."""
        self._gates.close()
        self._sampler.close()
        self.split.close()
        self._gate_of.clear()  # the gates hold what the last steps kept

    def __enter__(self) -> Self:
        """It is in effect already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.remove()

    def _scheduler(self) -> Any:
        """A scheduler with the SubNet's sampler, which tells when a run begins."""
        from search.model.bound_scheduler import bound_scheduler, fitted_scheduler

        fitted = self.subnet.fitted
        scheduler: Any = (
            bound_scheduler(self.subnet)
            if fitted is None
            else fitted_scheduler(self.subnet, fitted)
        )
        original = scheduler.set_timesteps

        @wraps(original)
        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            _require_timesteps(self.subnet, [float(t) for t in scheduler.timesteps])
            self._take_guidance(scheduler)
            # A run that was broken off has left its values behind.
            self._gate()

        scheduler.set_timesteps = set_timesteps
        setattr(scheduler, _MARK, True)
        return scheduler

    def _take_guidance(self, scheduler: Any) -> None:
        """Take the rows of the run's guidance scale; not every pipeline says which it has."""
        scale, scales = getattr(self._pipe, "_guidance_scale", None), self.subnet.guidance_range
        if scale is None or scales is None:
            return
        if why := refused_scale(scale, *scales):
            raise SearchError(why)
        scheduler.use_guidance_scale(scale)

    def _gate(self) -> None:
        """Gate the denoiser anew."""
        from search.model.reference import forward_replaced, gated

        self._gates.close()
        modules = dict(self._denoiser.named_modules())
        for name, module in modules.items():
            if module.forward != self._plain[name]:
                self._gates.enter_context(forward_replaced(module, self._plain[name]))
        before = {name: vars(module).get("forward") for name, module in modules.items()}
        self._gates.enter_context(gated(self._denoiser, self.subnet))
        for name, module in modules.items():
            gate = vars(module).get("forward")
            if gate is None or gate is before[name]:
                continue
            self._gate_of[name] = gate
            module.forward = self._plain[name] if name in self._ungated else self._entry(name)

    def _entry(self, name: str) -> Callable[..., Any]:
        """The way into a module's present gate: always the same, and closed to torch.compile."""
        import torch

        if name not in self._entries:

            def enter(*args: Any, **kwargs: Any) -> Any:
                return self._gate_of[name](*args, **kwargs)

            self._entries[name] = torch.compiler.disable(enter)  # type: ignore[no-untyped-call]
        return self._entries[name]


def apply(pipe: Any, subnet: SubNet | Path | str, *, compiler: Compiler | None = None) -> Applied:
    """Make a diffusers pipeline object run a SubNet from now on.

    `remove()` of the result, or the end of its `with` block, restores the pipeline. The pipeline's
    scheduler is replaced by the SubNet's sampler. A fitted sampler works only at the size, the guidance
    scales and the number of steps that it was fitted for; any other needs the SubNet's scheduler and
    number of steps, and works at every size.

    Args:
        pipe: a pipeline object with its weights, of a class that stepcarve supports, on any device and in
            any floating-point type.
        subnet: a SubNet that was made for this denoiser, or the path of its file.
        compiler: compiles each block, such as `torch.compile`. The code that switches blocks is never
            compiled, so a denoiser that was compiled as a whole runs uncompiled until the SubNet is
            removed.

    Returns:
        A handle that removes the SubNet.

    Raises:
        SearchError: the pipeline has another denoiser, or the SubNet starts from a picture or ends early. For a
            SubNet of split streams also where the denoiser was compiled, and then for each call without guidance.
    """
    from search.model.family import family_of
    from search.model.loaded import LoadedPipeline, require_denoiser
    from search.model.split_streams import streams_split

    if not isinstance(subnet, SubNet):
        subnet = SubNet.load(Path(subnet))
    if hasattr(pipe.scheduler, _MARK):
        msg = "a SubNet is already applied to this pipeline; remove it before you apply another"
        raise SearchError(msg)
    grid = subnet.binding.grid
    if not grid.is_whole:
        end = "" if grid.end_step is None else f" and ends before step {grid.end_step}"
        msg = (
            f"this SubNet {grid.begins}{end}, which a pipeline from text to image does not do; apply one "
            "that goes from noise to the end"
        )
        raise SearchError(msg)
    require_one_group(subnet.topology.groups, "apply")
    family = family_of(type(pipe).__name__)
    found = getattr(pipe, family.component)
    denoiser = getattr(found, "_orig_mod", found)
    require_denoiser(denoiser, subnet.binding)
    with ExitStack() as stack:
        if subnet.binding.split_streams:
            if denoiser is not found:
                msg = (
                    "this SubNet splits the denoiser's call, and the denoiser was compiled as a whole; apply it to "
                    "a pipeline that was not compiled, and give compiler=torch.compile"
                )
                raise SearchError(msg)
            stack.enter_context(streams_split(LoadedPipeline(pipe, family)))
        applied = Applied(pipe, denoiser, subnet, compiler)
        applied.split = stack.pop_all()
    return applied


def _whole_blocks(subnet: SubNet) -> list[str]:
    """The blocks in which nothing is switched on its own."""
    topology, inside = subnet.topology, _always_inside(subnet)
    units = {unit for segment in topology.segments for unit in segment.units} - inside
    return [
        block
        for block in topology.blocks
        if not any(unit.startswith(f"{block}.") for unit in units | set(topology.blocks))
    ]


def _always_inside(subnet: SubNet) -> frozenset[str]:
    """The modules that run whenever a block around them does, so that they need no gate of their own."""
    unrolled, blocks = unroll(subnet), subnet.topology.blocks
    running = []
    for segments, computed in zip(unrolled.segments, unrolled.computed, strict=True):
        ports = {port for target in computed for port in (target.port, target.base) if port >= 0}
        emitting = {blocks[subnet.topology.ports[port].block] for port in ports}
        running.append({unit for segment in segments for unit in segment.units} | emitting)

    def runs(block: str, units: set[str]) -> bool:
        return block in units or any(unit.startswith(f"{block}.") for unit in units)

    found = set()
    for unit in set().union(*running) - set(blocks):
        around = [block for block in blocks if unit.startswith(f"{block}.")]
        if around and all(
            unit in each or not any(runs(b, each) for b in around) for each in running
        ):
            found.add(unit)
    return frozenset(found)


def _require_timesteps(subnet: SubNet, timesteps: list[float]) -> None:
    """Refuse a run on other timesteps than those of `subnet`."""
    mine, grid = list(subnet.timesteps), subnet.binding.grid
    if len(mine) == len(timesteps) and np.allclose(mine, timesteps, rtol=1e-5, atol=1e-3):
        return
    asked = f"num_inference_steps={grid.inference_steps}"
    for name in ("timesteps", "sigmas"):
        if custom := getattr(grid, f"custom_{name}"):
            asked = f"{name}={list(custom)}"
    msg = (
        f"the pipeline runs {len(timesteps)} steps, the first at timesteps {_few(timesteps)}, but the "
        f"SubNet was made for {len(mine)}, at {_few(mine)}; give {asked}, and the size it was made for"
    )
    raise SearchError(msg)


def _few(timesteps: list[float]) -> str:
    return ", ".join(f"{t:g}" for t in timesteps[:3])
