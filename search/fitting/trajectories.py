"""Runs of the full sampler: the latents and noise predictions that a fitted sampler approximates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.core.groups import require_one_group
from search.core.timestep_grid import TimestepGrid
from search.model.predictor import Predictor
from search.model.scheduler import combine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from search.core.sampler import SamplerTable, ScaleRange
    from search.core.subnet import SubNet
    from search.fitting.gated_calls import GatedPredictor
    from search.model.pipeline import Pipeline

BISECTIONS = 30
"""To find a position between two timesteps."""
CHUNK = 12
"""Pictures per call of the denoiser: fewer leave two cores too little to share, more take more memory. Where pictures have several guidance scales, a call of each scale together."""


@dataclass(frozen=True)
class Trajectories:
    """Runs of the full sampler from S noises, at its T distinct timesteps.

    A *position* is an index into these timesteps, 0 to T - 1; between two of them everything is interpolated.
    The latents of a picture, `...`, have the shape that the denoiser takes.

    Attributes:
        predictor: for the S prompts.
        timesteps: `[T]`, noisiest first.
        noise: of unit variance, `[S, ...]`.
        latents: the denoiser's inputs, `[T, S, ...]`.
        predictions: of the noise, `[T, S, ...]`.
        final: latents, `[S, ...]`.
        first: what the noise is multiplied with to be the first input.
        scales: the range of guidance scales that rows are fitted for; None: the pictures have one scale.
        scale_of: each picture's, as an index into `scales.fitted_at`, `[S]`.
        rounding: of the numbers that the denoiser computes with, relative to them.
    """

    predictor: Predictor | GatedPredictor
    timesteps: Tensor
    noise: Tensor
    latents: Tensor
    predictions: Tensor
    final: Tensor
    first: float
    scales: ScaleRange | None = None
    scale_of: Tensor | None = None
    rounding: float = torch.finfo(torch.float32).eps

    @property
    def last(self) -> int:
        """The largest position."""
        return len(self.timesteps) - 1

    @property
    def scale_count(self) -> int:
        """The number of guidance scales; the calls of the denoiser take them in turn."""
        return 1 if self.scales is None else len(self.scales.fitted_at)

    def masks(self) -> list[Tensor]:
        """Which pictures have each guidance scale, `[S]`."""
        if self.scale_of is None:
            return [torch.ones(len(self.noise), dtype=torch.bool, device=self.noise.device)]
        return [self.scale_of == number for number in range(self.scale_count)]

    def split(self, values: Tensor) -> list[Tensor]:
        """`values` `[S, ...]` of the pictures of each guidance scale, and 0 for the others."""
        if self.scale_of is None:
            return [values]
        return [values * mask.view(-1, *[1] * (values.ndim - 1)) for mask in self.masks()]

    def of_each_scale(self) -> list[Trajectories]:
        """The runs of each guidance scale on their own."""
        if self.scale_of is None:
            return [self]
        of_calls = self.scale_of[:: self._each].tolist()
        return [
            self._of_chunks([call for call, each in enumerate(of_calls) if each == number])
            for number in range(self.scale_count)
        ]

    def latents_at(self, position: Tensor) -> Tensor:
        """The denoiser's inputs at a position `[]`, `[S, ...]`."""
        return _interpolate(position, self.latents)

    def timestep_at(self, position: Tensor) -> Tensor:
        """The timestep at a position `[]`."""
        return _interpolate(position, self.timesteps)

    def position_of(self, timestep: float) -> float:
        """The position at which `timestep_at` gives a timestep, clipped to those there are."""
        known = self.timesteps.double().numpy(force=True)
        near = float(np.interp(-timestep, -known, np.arange(len(known))))
        low, high = float(math.floor(near)), float(math.ceil(near))
        for _ in range(BISECTIONS if low < high else 0):
            near = (low + high) / 2
            is_noisier = float(self.timestep_at(torch.tensor(near, dtype=torch.float64))) > timestep
            low, high = (near, high) if is_noisier else (low, near)
        return near

    def first_pictures(self, count: int) -> Trajectories:
        """The first `count` pictures only, in one call, as gated blocks need it."""
        if count == len(self.noise) and self.predictor.chunks == 1:
            return self
        return self._of_pictures(self.predictor.first(count), slice(count))

    def alone(self, number: int) -> Trajectories:
        """One of the pictures alone."""
        return self._of_pictures(self.predictor.alone(number), slice(number, number + 1))

    def by(self, predictor: Predictor | GatedPredictor) -> Trajectories:
        """The same runs, approximated with another predictor."""
        return dataclasses.replace(self, predictor=predictor)

    def some(self, pictures: int) -> Trajectories:
        """The first `pictures` of them, or a few more so that calls of the denoiser stay whole."""
        if pictures >= len(self.noise):
            return self
        count = -(-pictures // self._each)
        whole = -(-count // self.scale_count) * self.scale_count
        return self._of_chunks(range(min(self.predictor.chunks, whole)))

    def calls(self) -> Iterator[Trajectories]:
        """The runs of each call of the denoiser on their own."""
        if len(self.noise) <= self._each:
            yield self
            return
        for number in range(self.predictor.chunks):
            yield self._of_chunks([number])

    def batches(self, pictures: int, seed: int) -> Iterator[Trajectories]:
        """Endlessly, the runs of `pictures` at a time, whole calls of the denoiser, in random order.

        Each time some of all guidance scales.
        """
        count = max(1, pictures // (self._each * self.scale_count))
        if pictures >= len(self.noise):
            yield from itertools.repeat(self)
        random = np.random.default_rng(seed)
        rounds = max(1, self.predictor.chunks // self.scale_count)
        left: list[int] = []
        while True:
            if len(left) < count:
                left = random.permutation(rounds).tolist()
            chosen, left = left[:count], left[count:]
            yield self._of_chunks(
                [
                    n
                    for n in range(self.predictor.chunks)
                    if n // self.scale_count % rounds in chosen
                ]
            )

    @property
    def _each(self) -> int:
        """Pictures per call of the denoiser; the last one may have fewer."""
        return min(CHUNK, len(self.noise)) if self.scale_of is None else self.predictor.size

    def _of_chunks(self, numbers: Sequence[int]) -> Trajectories:
        kept = [i for i in range(len(self.noise)) if i // self._each in numbers]
        return self._of_pictures(self.predictor.of_chunks(numbers), kept)

    def _of_pictures(
        self, predictor: Predictor | GatedPredictor, kept: slice | list[int]
    ) -> Trajectories:
        return dataclasses.replace(
            self,
            predictor=predictor,
            noise=self.noise[kept],
            latents=self.latents[:, kept],
            predictions=self.predictions[:, kept],
            final=self.final[kept],
            scale_of=None if self.scale_of is None else self.scale_of[kept],
        )

    def error(self, final: Tensor) -> Tensor:
        """Relative L2 of final latents `[S, ...]` per picture, `[S]`."""
        difference = (final - self.final).flatten(1).norm(dim=1)
        relative: Tensor = difference / self.final.flatten(1).norm(dim=1)
        return relative


def sample_trajectories(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    grid: TimestepGrid,
    guidance: float,
    noise_shape: tuple[int, ...],
    seed: int,
    scales: ScaleRange | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Trajectories:
    """Run the pipeline's present scheduler for all prompts.

    Args:
        pipeline: with its weights loaded.
        prompts: one per picture.
        grid: timesteps or their number, as given to the scheduler.
        guidance: scale.
        noise_shape: of one picture, before the pipeline packs it.
        seed: of the noise.
        scales: the range of guidance scales to sample at; None: at `guidance` alone.
        progress: called with the number of calls that are done, and of all.

    Raises:
        SearchError: what a call made is not finite.
    """
    size = pipeline.size(noise_shape)
    table, timesteps = pipeline.sampler(grid, size), pipeline.timesteps(grid, size)
    table.require_fixed()
    asked = (guidance,) if scales is None else scales.fitted_at
    each = max(1, min(CHUNK, len(prompts)) // len(asked))
    predictor = Predictor(pipeline, prompts, guidance=asked, noise_shape=noise_shape, chunk=each)
    generator = torch.Generator().manual_seed(seed)
    device = pipeline.pipe.device
    noise = torch.randn(len(prompts), *predictor.latent_shape, generator=generator).to(device)
    values, inputs = _run(predictor, table, timesteps, noise, progress)
    # Samplers with predictor steps visit a timestep twice; the later latents are the better ones.
    last = {timestep: number for number, timestep in enumerate(timesteps)}
    kept = sorted(last.values())
    return Trajectories(
        predictor=predictor,
        timesteps=torch.tensor([timesteps[i] for i in kept], device=device),
        noise=noise,
        latents=torch.stack([inputs[i] for i in kept]),
        predictions=torch.stack([values[1 + i] for i in kept]),
        final=combine(table.final, values),
        first=float(table.inputs[0, 0]),
        scales=scales,
        scale_of=None if scales is None else _scale_of(predictor, scales).to(device),
        rounding=torch.finfo(pipeline.denoiser.dtype).eps,
    )


def _run(
    predictor: Predictor,
    table: SamplerTable,
    timesteps: Sequence[float],
    noise: Tensor,
    progress: Callable[[int, int], None],
) -> tuple[list[Tensor], list[Tensor]]:
    """The noise and all predictions `[S, ...]`, and the denoiser's inputs, of one run of the sampler."""
    values, inputs = [noise], []
    with torch.no_grad():
        for number, (row, timestep) in enumerate(zip(table.inputs, timesteps, strict=True)):
            inputs.append(combine(row, values))
            values.append(predictor(inputs[-1], torch.tensor(timestep, device=noise.device)))
            _require_finite(values[-1], number, timestep, predictor.prompts)
            progress(number + 1, len(timesteps))
    return values, inputs


def _scale_of(predictor: Predictor, scales: ScaleRange) -> Tensor:
    """See `Trajectories.scale_of`."""
    of_calls = [scales.fitted_at.index(scale) for scale in predictor.scales]
    return torch.tensor([of_calls[n // predictor.size] for n in range(len(predictor.prompts))])


def _require_finite(prediction: Tensor, call: int, timestep: float, prompts: Sequence[str]) -> None:
    finite = prediction.flatten(1).isfinite().all(1).tolist()
    if not all(finite):
        msg = (
            f"the full sampler's noise prediction is not finite at call {call} (timestep {timestep:g}) "
            f"for {prompts[finite.index(False)]!r}; check the pipeline's weights and dtype"
        )
        raise SearchError(msg)


def sample_both(
    pipeline: Pipeline,
    full: SubNet,
    prompts: Sequence[str],
    *,
    fitted_on: int,
    held_out: int,
    reference_steps: int | None,
    seed: int,
    scales: ScaleRange | None = None,
    report: Callable[..., None],
) -> tuple[Trajectories, Trajectories]:
    """Runs to fit to and other runs to choose by, of different prompts where there are enough.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: says steps, guidance and shape.
        prompts: repeated, with other noise, if they are few.
        fitted_on: pictures in the first runs.
        held_out: pictures in the second.
        reference_steps: inference steps; None takes those of `full`.
        seed: of the noise.
        scales: the range of guidance scales to sample at; None: at that of `full` alone.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: there are fewer pictures than scales.
    """
    require_one_group(full.topology.groups, "fitting a sampler")
    _require_enough(scales, fitted_on, held_out)
    texts = [prompts[i % len(prompts)] for i in range(fitted_on + held_out)]
    first, second = (
        sample_trajectories(
            pipeline,
            part,
            grid=full.binding.grid if reference_steps is None else TimestepGrid(reference_steps),
            guidance=full.guidance,
            noise_shape=full.binding.noise_shape,
            seed=2 * seed + number,
            scales=scales,
            progress=lambda done, total: report(
                f"full sampler: call {done} of {total}", done / total
            ),
        )
        for number, part in enumerate((texts[:fitted_on], texts[fitted_on:]))
    )
    return first, second


def _require_enough(scales: ScaleRange | None, fitted_on: int, held_out: int) -> None:
    """Refuse fewer pictures than guidance scales."""
    if scales is not None and min(fitted_on, held_out) < len(scales.fitted_at):
        msg = (
            f"rows for a range of guidance scales are fitted at {len(scales.fitted_at)} scales, "
            f"but there are only {fitted_on} pictures to fit to and {held_out} to choose by; give "
            "more --pictures"
        )
        raise SearchError(msg)


def _interpolate(position: Tensor, values: Tensor) -> Tensor:
    """Cubic (Lagrange) interpolation of `values` `[T, ...]` at a position `[]`."""
    count = min(4, len(values))
    start = min(max(int(position) - 1, 0), len(values) - count)
    offset = position - start
    total = torch.zeros_like(values[0])
    for i in range(count):
        weight = torch.ones_like(offset)
        for j in range(count):
            if j != i:
                weight = weight * (offset - j) / (i - j)
        total = total + weight.to(values.dtype) * values[start + i]
    return total
