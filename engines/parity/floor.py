"""The noise floor: what rounding alone does to PyTorch's results, measured on the same latents.

For an engine in half precision: PyTorch in that precision against PyTorch in float32. For one in float32:
PyTorch in float32 against PyTorch in float64, text encoders and decoder included. diffusers computes
the sines of timesteps, guidance scales and sizes in float32 whatever the precision, so these are moved by
their last bit.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from engines.errors import EngineError
from engines.parity.measure import relative_l2
from engines.parity.reference import images_of
from search.core.names import PREDICTION
from search.core.precision import precision_named
from search.core.program import plan_program
from search.model.decoder import Decoder
from search.model.predictor import Predictor
from search.model.reference import forward_replaced, gated
from search.model.trace import convert_denoiser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.parity.reference import Reference
    from search.core.topology import Target
    from search.model.pipeline import Pipeline

    Array = NDArray[Any]

ROUNDING = 2.0**-24
"""Of float32, in which samplers add up whatever the precision: no floor is lower."""
FEW = 16
"""Numbers per sample: an argument of no more is a timestep, a scale or sizes."""


@dataclass(frozen=True)
class Precise:
    """The denoiser, guidance applied, in the precision that a floor is measured in.

    Attributes:
        predictor: for the prompt.
        dtype: of its inputs and inner values.
        timesteps: per step.
    """

    predictor: Predictor
    dtype: torch.dtype
    timesteps: tuple[float, ...]

    def __call__(self, sample: Array, step: int) -> Array:
        """The noise prediction for the denoiser's input at `step`, in float64."""
        given, told = torch.from_numpy(sample.astype(np.float64)), self.timesteps[step]
        prediction: Array = self.predictor(given, torch.tensor(told)).numpy()
        return prediction


@dataclass(frozen=True)
class Floor:
    """Relative L2 differences that come from rounding.

    Attributes:
        precision: that of the engine.
        forced: per probed call, by name, for what it computes from the reference's inputs.
        free: per call, for the denoiser's input when the trajectory is followed in that precision.
        latents: likewise, for the final latents.
        decoder: for the picture decoded from given latents, in float32.
    """

    precision: str
    forced: Mapping[int, Mapping[str, float]]
    free: tuple[float, ...]
    latents: float
    decoder: float

    def of(self, number: int, graphs: Sequence[int], name: str) -> float:
        """For what call `number` gives under `name`: between the probed calls of the same graph."""
        alike = sorted(
            n for n in self.forced if graphs[n] == graphs[number] and name in self.forced[n]
        )
        return float(
            np.exp(np.interp(number, alike, [np.log(self.forced[n][name]) for n in alike]))
        )


def measure_floor(reference: Reference, precision: str, probes: Sequence[int]) -> Floor:
    """Run the SubNet in PyTorch in `precision`, and its calls number `probes` on given inputs.

    Raises:
        EngineError: PyTorch's own results in that precision are not finite, or noise.
    """
    decoder = _decoder_floor(reference)
    with _predicting(reference, precision) as predict:
        forced = forced_floors(reference, predict, probes)
        free, latents = _free_floors(reference, predict)
    for number, floors in forced.items():
        for name, floor in floors.items():
            if not floor <= precision_named(precision).floor:
                msg = (
                    f"PyTorch in {precision} gives {name!r} at call {number} with a relative error of "
                    f"{floor:.1e} against PyTorch in more digits, so there is nothing to hold an engine "
                    f"to; export with --dtype {'bfloat16' if precision == 'float16' else 'float32'}"
                )
                raise EngineError(msg)
    return Floor(precision, forced, free, latents, decoder)


def block_floors(reference: Reference, precision: str, number: int) -> Mapping[str, float]:
    """By name, for everything that call `number` computes from the reference's inputs."""
    with _predicting(reference, precision) as predict:
        return forced_floors(reference, predict, [number])[number]


def forced_floors(
    reference: Reference, predict: Precise, probes: Sequence[int]
) -> dict[int, dict[str, float]]:
    """By call and name, what its outputs differ by when it gets the reference's inputs and caches."""
    calls = reference.bundle.calls
    found: dict[tuple[int, Target], Array] = {}
    denoiser, dtype = reference.opened.denoiser, predict.dtype

    def recall(step: int, target: Target) -> torch.Tensor | None:
        known = reference.values.get((step, target))
        return None if known is None else torch.from_numpy(known).to(dtype)

    def keep(step: int, target: Target, tensor: torch.Tensor) -> None:
        found[step, target] = tensor.double().numpy(force=True)

    steps = [calls[number].step for number in probes]
    floors: dict[int, dict[str, float]] = {}
    with gated(denoiser, reference.subnet, steps=steps, observe=keep, recall=recall):
        for number, step in zip(probes, steps, strict=True):
            found.clear()
            made = predict(reference.sample(step), step)
            floors[number] = {
                name: max(ROUNDING, relative_l2(found[key], reference.values[key]))
                for name, key in reference.computed(step).items()
            }
            floors[number][PREDICTION] = max(
                ROUNDING, relative_l2(made, reference.prediction(step))
            )
    return floors


def _free_floors(reference: Reference, predict: Precise) -> tuple[tuple[float, ...], float]:
    """Per call what its input differs by, and what the final latents do, on the way that is followed.

    What the noises give to both is the same, so only the differences of the predictions are followed.
    """
    subnet, opened = reference.subnet, reference.opened
    program = plan_program(subnet, reference.bundle.latent_shape[0])
    rows = program.reduce(reference.table)
    changes: list[Array] = []
    free: list[float] = []

    def moved(row: NDArray[np.float64], tensor: Array) -> Array:
        return tensor + sum((b * d for b, d in zip(row[rows.known :], changes, strict=False)), 0.0)

    steps = [call.step for call in program.calls]
    with gated(opened.denoiser, subnet, steps=steps):
        for call, row in zip(program.calls, rows.inputs, strict=True):
            given = reference.sample(call.step).astype(np.float64)
            sample = moved(row, given)
            free.append(max(ROUNDING, relative_l2(sample, given)))
            made = predict(sample, call.step)
            if call.prediction is not None:
                changes.append(made - reference.prediction(call.step))
    final = reference.latents.astype(np.float64)
    return tuple(free), max(ROUNDING, relative_l2(moved(rows.final, final), final))


@contextmanager
def _predicting(reference: Reference, precision: str) -> Iterator[Precise]:
    """While open, the denoiser in what `precision` is measured by."""
    opened, subnet = reference.opened, reference.subnet

    def predictor() -> Predictor:
        return Predictor(
            opened,
            (reference.prompt,) * reference.bundle.latent_shape[0],
            guidance=reference.bundle.guidance,
            noise_shape=subnet.binding.noise_shape,
        )

    with torch.no_grad(), ExitStack() as stack:
        if precision == "float32":
            stack.enter_context(_converted(opened, torch.float64))
            made, denoiser, dtype = predictor(), opened.denoiser, torch.float64
        else:
            made, denoiser = predictor(), copy.deepcopy(opened.denoiser)
            dtype = getattr(torch, precision_named(precision).torch)
            convert_denoiser(denoiser, dtype)
            stack.callback(setattr, opened.pipe, opened.family.component, opened.denoiser)
            setattr(opened.pipe, opened.family.component, denoiser)
        cast = _casting(denoiser.forward, opened.family.timestep, dtype)
        stack.enter_context(forward_replaced(denoiser, cast))
        yield Precise(made, dtype, subnet.timesteps)


def _casting(forward: Callable[..., Any], timestep: str, dtype: torch.dtype) -> Callable[..., Any]:
    """A denoiser's `forward` that takes any precision but works in `dtype`; the timestep stays float32."""

    def cast(leaf: torch.Tensor) -> torch.Tensor:
        return _moved(leaf).to(dtype) if leaf.is_floating_point() else leaf

    def run(**kwargs: Any) -> Any:
        told = {timestep: _moved(kwargs.pop(timestep))}
        output = forward(**pytree.tree_map_only(torch.Tensor, cast, kwargs), **told)
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.double, output)

    return run


def _moved(leaf: torch.Tensor) -> torch.Tensor:
    """What is turned into sines moved by its last bit in float32; anything else as it is."""
    if leaf.numel() > FEW * (len(leaf) if leaf.ndim else 1):
        return leaf
    return torch.nextafter(leaf.float(), torch.tensor(torch.inf)).to(leaf.dtype)


@contextmanager
def _converted(opened: Pipeline, dtype: torch.dtype) -> Iterator[None]:
    """While open, all of the pipeline's modules are `dtype`, which holds float32 exactly."""
    modules = [m for m in opened.pipe.components.values() if isinstance(m, nn.Module)]
    try:
        for module in modules:
            nn.Module.to(module, dtype)
        yield
    finally:
        for module in modules:
            nn.Module.to(module, torch.float32)


def _decoder_floor(reference: Reference) -> float:
    """Relative L2 difference of the pictures decoded in float32 and in float64."""
    opened, latents = reference.opened, reference.gated.latents[-1]
    size = opened.size(reference.subnet.binding.noise_shape)
    with torch.no_grad(), _converted(opened, torch.float64):
        pictures = Decoder(opened, size)(latents.double()).permute(0, 2, 3, 1).numpy()
    return max(ROUNDING, relative_l2(pictures, images_of(reference.gated)))
