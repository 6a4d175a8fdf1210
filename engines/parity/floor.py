"""The noise floor: what rounding alone does to PyTorch's results, measured on the same latents.

For an engine in half precision: PyTorch in that precision against PyTorch in float32. For one in float32:
PyTorch in float32 against PyTorch in float64, text encoders and decoder included. diffusers computes
the sines of timesteps, guidance scales and sizes in float32 whatever the precision, so these are moved by
their last bit.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from engines.errors import EngineError
from engines.parity.casting import cast_weights
from engines.parity.measure import relative_l2
from engines.parity.quantisation import listed
from engines.parity.record import K
from engines.parity.reference import images_of
from engines.parity.replay import TorchDenoiser, predictors_of, replay
from search.core.names import PREDICTION
from search.core.precision import precision_named
from search.core.program import plan_program
from search.core.quantisation import weight_scheme
from search.model.computing import computing_in, convertible_modules
from search.model.decoder import Decoder
from search.model.reference import forward_replaced, gated
from search.quantise.rounded import quantised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from engines.parity.reference import Reference
    from engines.parity.replay import Replayed

    Array = NDArray[Any]

ROUNDING = 2.0**-24
"""Rounding of float32, in which samplers accumulate in any precision: the least floor."""
QUANTISED = 1.5
"""How much further from PyTorch than rounded PyTorch an engine may be: flipped roundings cascade."""
FEW = 16
"""Most numbers per sample of a timestep, scale or size argument."""


@dataclass(frozen=True)
class Floor:
    """Relative L2 differences that come from rounding.

    Attributes:
        precision: that of the engine.
        forced: per probed call, by name, for what it computes from the reference's inputs.
        free: per call, for the denoiser's input when the trajectory is followed in that precision.
        latents: likewise, for the final latents.
        decoder: for the picture decoded from given latents, in float32.
        most: how many of these floors the denoiser's results may be off; None: as many as is asked for.
    """

    precision: str
    forced: Mapping[int, Mapping[str, float]]
    free: tuple[float, ...]
    latents: float
    decoder: float
    most: float | None = None

    def of(self, number: int, graphs: Sequence[int], name: str) -> float:
        """The floor of output `name` of call `number`, interpolated between the probed calls of its graph."""
        alike = sorted(
            n for n in self.forced if graphs[n] == graphs[number] and name in self.forced[n]
        )
        return float(
            np.exp(np.interp(number, alike, [np.log(self.forced[n][name]) for n in alike]))
        )


def measure_floors(
    reference: Reference, precisions: Iterable[str], probes: Sequence[int]
) -> dict[str, Floor]:
    """Run the SubNet in PyTorch in each of `precisions`, and its calls number `probes` on given inputs.

    Of a quantised bundle, that of its float twin is measured as well.

    Raises:
        EngineError: PyTorch's own results in that precision are not finite, or noise.
    """
    if reference.bundle.plan is None:
        return {each: _measured(reference, each, probes) for each in precisions}
    plain = _measured(_without_plan(reference), reference.bundle.dtype, probes)
    return {
        plain.precision: plain,
        **{each: _at_least(_measured(reference, each, probes), plain) for each in precisions},
    }


def _without_plan(reference: Reference) -> Reference:
    return replace(reference, bundle=replace(reference.bundle, quantisation=None))


def _measured(reference: Reference, precision: str, probes: Sequence[int]) -> Floor:
    with _as_exported(reference):
        decoder = _decoder_floor(reference)
    precise = _denoiser_for(reference, precision)
    with _casting(precise), torch.no_grad():
        free, latents = _free_floors(precise)
    forced = {}
    for call in replay(reference, inner=probes):
        if call.number in probes:
            forced[call.number] = floors = _forced_floors(precise, call)
            if reference.bundle.plan is None:
                _require_digits(_coarsest(reference, precision), call.number, floors)
    return Floor(precision, forced, free, latents, decoder)


def _at_least(rounded: Floor, plain: Floor) -> Floor:
    """The floors of a quantised bundle: where nothing is rounded to a grid, those of its dtype."""
    return replace(
        rounded,
        forced={
            number: _larger(floors, plain.forced[number])
            for number, floors in rounded.forced.items()
        },
        free=tuple(map(_least, rounded.free, plain.free)),
        latents=_least(rounded.latents, plain.latents),
        most=QUANTISED,
    )


def _least(rounded: float, plain: float) -> float:
    return max(rounded, K / QUANTISED * plain)


def _larger(rounded: Mapping[str, float], plain: Mapping[str, float]) -> dict[str, float]:
    return {name: _least(floor, plain[name]) for name, floor in rounded.items()}


def block_floors(
    reference: Reference, precision: str, call: Replayed, k: float
) -> tuple[dict[str, float], float]:
    """By name, for everything in `call`; and how many of them it may be off if others may be `k`."""
    floors = _forced_floors(_denoiser_for(reference, precision), call)
    if reference.bundle.plan is None:
        return floors, k
    plain = _without_plan(reference)
    others = _forced_floors(_denoiser_for(plain, reference.bundle.dtype), call)
    return _larger(floors, others), QUANTISED


def _coarsest(reference: Reference, precision: str) -> str:
    """That precision, or one of the parts around the denoiser with fewer digits."""
    return max(
        (precision, *_half(reference).values()), key=lambda each: precision_named(each).floor
    )


def _require_digits(precision: str, number: int, floors: Mapping[str, float]) -> None:
    """Refuse a call whose floors exceed the limit of the precision."""
    for name, floor in floors.items():
        limits = precision_named(precision)
        if not floor <= limits.floor:
            wider = f"export with --dtype {limits.wider}" if limits.wider else "give other weights"
            msg = (
                f"PyTorch in {precision} gives {name!r} at call {number} with a relative error of "
                f"{floor:.1e} against PyTorch in a wider precision, which is too much to compare an "
                f"engine with it; {wider}"
            )
            raise EngineError(msg)


def _forced_floors(precise: TorchDenoiser, call: Replayed) -> dict[str, float]:
    """By name, the differences of the outputs of `call` on the reference's inputs and caches."""
    floors: dict[str, float] = {}

    def measure(name: str, tensor: torch.Tensor) -> None:
        floors[name] = _floor(tensor.double().numpy(force=True), call.made[name])

    with _casting(precise):
        prediction = precise.call(call.step, call.sample, call.reads, measure)
    if PREDICTION in call.made:
        floors[PREDICTION] = _floor(prediction, call.made[PREDICTION])
    return floors


def _floor(found: Array, expected: Array) -> float:
    return max(ROUNDING, relative_l2(found, expected))


def _free_floors(precise: TorchDenoiser) -> tuple[tuple[float, ...], float]:
    """Per call the difference of its input, and that of the final latents, on the free trajectory.

    What the noises give to both is the same, so only the differences of the predictions are followed. The
    sampler's own sums round too, however alike the predictions are: never less than that.
    """
    reference = precise.reference
    program = plan_program(reference.subnet, reference.bundle.latent_shape[0])
    rows = program.reduce(reference.table)
    changes: list[Array] = []
    made: list[Array] = []
    free: list[float] = []

    def floor(row: NDArray[np.float64], tensor: Array) -> float:
        weights = row[rows.known :]
        return max(_floor(moved(row, tensor), tensor), _summed(tensor, weights, made))

    def moved(row: NDArray[np.float64], tensor: Array) -> Array:
        return tensor + sum((b * d for b, d in zip(row[rows.known :], changes, strict=False)), 0.0)

    steps = [call.step for call in program.calls]
    with gated(reference.opened.networks, reference.subnet, steps=steps):
        for call, row in zip(program.calls, rows.inputs, strict=True):
            given = reference.sample(call.step).astype(np.float64)
            free.append(floor(row, given))
            found = precise(moved(row, given), call.step)
            if call.prediction is not None:
                made.append(reference.prediction(call.step))
                changes.append(found - made[-1])
    return tuple(free), floor(rows.final, reference.latents.astype(np.float64))


def _summed(tensor: Array, weights: Array, predictions: Sequence[Array]) -> float:
    """What rounding each term of a sum to float32 may do to it, relative L2.

    Args:
        tensor: the sum of the weighted predictions, and of what noises add to them.
        weights: of the predictions; there may be more of them.
        predictions: of the calls so far.
    """
    terms = [w * each for w, each in zip(weights, predictions, strict=False)]
    others = tensor - sum(terms, 0.0)
    sizes = [float(np.linalg.norm(each)) for each in (*terms, others)]
    return ROUNDING * sum(sizes) / max(float(np.linalg.norm(tensor)), ROUNDING)


def _denoiser_for(reference: Reference, precision: str) -> TorchDenoiser:
    """The denoiser in what `precision` is measured by; it computes so within `_casting`."""
    if reference.bundle.plan is not None:
        return TorchDenoiser(reference, predictors_of(reference), torch.float32, torch.float32)
    if precision == "float32":
        dtype = torch.float64
        with _as_exported(reference), cast_weights(_modules(reference), dtype):
            predictors = predictors_of(reference)
    else:
        dtype = getattr(torch, precision_named(precision).torch)
        with _as_exported(reference):
            predictors = predictors_of(reference)
    return TorchDenoiser(reference, predictors, dtype, torch.float64)


@contextmanager
def _casting(precise: TorchDenoiser) -> Iterator[None]:
    """While open, the pipeline's networks take any dtype and compute in that of `precise`.

    That of a quantised bundle rounds as its plan says.
    """
    opened, dtype = precise.reference.opened, precise.dtype
    plan = precise.reference.bundle.plan
    if plan is not None:
        with quantised(opened, listed(precise.reference.bundle, plan)):
            yield
        return
    with ExitStack() as stack:
        for each in opened.networks.values():
            modules = each.modules() if dtype is torch.float64 else convertible_modules(each)
            forward = _forward_in(dtype, each.forward)
            stack.enter_context(cast_weights(modules, dtype))
            stack.enter_context(forward_replaced(each, forward))
        yield


def _forward_in(dtype: torch.dtype, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A denoiser's `forward` with its arguments cast to `dtype`, but for vectors such as the timestep."""

    def cast(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.is_floating_point():
            return leaf
        return _moved(leaf).to(dtype) if leaf.ndim > 1 else _moved(leaf.float())

    def run(*args: Any, **kwargs: Any) -> Any:
        given = pytree.tree_map_only(torch.Tensor, cast, (args, kwargs))
        output = forward(*given[0], **given[1])
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.double, output)

    return run


def _moved(leaf: torch.Tensor) -> torch.Tensor:
    """Arguments of sinusoidal embeddings moved by their last bit in float32; others unchanged."""
    if leaf.numel() > FEW * (len(leaf) if leaf.ndim else 1):
        return leaf
    return torch.nextafter(leaf.float(), torch.tensor(torch.inf)).to(leaf.dtype)


@contextmanager
def _as_exported(reference: Reference) -> Iterator[None]:
    """While open, text encoders and autoencoder compute in the precision that the bundle has them in."""
    with ExitStack() as stack:
        for name, precision in _half(reference).items():
            part = getattr(reference.opened.pipe, name)
            dtype = getattr(torch, precision_named(precision).torch)
            stack.enter_context(cast_weights(convertible_modules(part), dtype))
            stack.enter_context(computing_in(part, dtype))
        yield


def _half(reference: Reference) -> dict[str, str]:
    """The parts that the bundle does not compute in float32."""
    parts = reference.bundle.parts
    return {
        name: each
        for name, each in parts.items()
        if each != "float32" and weight_scheme(each) is None
    }


def _modules(reference: Reference) -> Iterator[nn.Module]:
    """All modules of the pipeline's parts that the bundle has in float32."""
    for name, part in reference.opened.pipe.components.items():
        if isinstance(part, nn.Module) and name not in _half(reference):
            yield from part.modules()


def _decoder_floor(reference: Reference) -> float:
    """Relative L2 difference of the pictures decoded in float32 and in float64."""
    opened, latents = reference.opened, reference.gated.latents[-1]
    size = opened.size(reference.subnet.binding.noise_shape)
    with torch.no_grad(), cast_weights(_modules(reference), torch.float64):
        pictures = Decoder(opened, size)(latents.double()).movedim(-3, -1).numpy()
    return _floor(pictures, images_of(reference.gated))
