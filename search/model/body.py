"""The body of a pipeline's loop: what one step does between its latents and the scheduler.

diffusers' own call is run with a stand-in for the scheduler that has one timestep and ends the call at
its first step. The latents that the pipeline prepares are replaced by ours, and so is what its encoders
return. So packing, guidance, several calls of the denoiser, signs and renormalisation are the
pipeline's own, whatever its class.
"""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.compiler import is_exporting
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.model.answers import Answers, numbers_among, tensors_as_numbers
from search.model.encoding import LABELS, Encoding, conditions_of
from search.model.entry import (
    in_latents,
    latents_replaced,
    numbered_noise,
    shape_noted,
    sizes_noted,
)
from search.model.failures import pipeline_failures
from search.model.folding import folding_of
from search.model.hidden_keys import without_padding
from search.model.one_loop import other_schedulers_refused, require_one_loop
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.pictures import sources_of
from search.model.replaced import replaced
from search.model.shapes import shapes_only
from search.model.stopping_scheduler import SCALE, Scheduled, StoppedError, Twice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from search.core.subnet import SubNet
    from search.model.family import OpenedPipeline, Request
    from search.model.fixed_texts import FixedTexts


@dataclass(frozen=True)
class DenoiserUse:
    """One call of the denoiser within a body.

    Attributes:
        rows: of its batch.
        is_batch: whether that is one tensor, not a list of samples.
    """

    rows: int
    is_batch: bool = True


@dataclass(frozen=True)
class Place:
    """Where in a loop a step is, for pipelines whose steps differ.

    Attributes:
        step: its number.
        timesteps: of all steps.
        inference_steps: the number of steps that the pipeline is given.
    """

    step: int
    timesteps: tuple[float, ...]
    inference_steps: int


def places_of(subnet: SubNet) -> tuple[Place | None, ...]:
    """The steps of a SubNet to look at: the first of each group; None if all steps do the same."""
    groups = subnet.topology.groups
    if groups is None:
        return (None,)
    steps = map(groups.first_step, range(len(groups.calls)))
    return tuple(Place(s, subnet.timesteps, subnet.binding.inference_steps) for s in steps)


@dataclass(frozen=True)
class _Recorded:
    """What a pipeline did up to the scheduler's step.

    Attributes:
        stopped: what the scheduler was handed.
        uses: the calls of the denoiser, in order.
        parts_around: the modules other than the denoiser that ran, by name.
        drawn: shape of the first noise that was drawn; empty if none was.
        asked: height, width and frames, as far as the pipeline says what it prepares latents for.
        prepared: shapes of the latents that the pipeline prepares.
    """

    stopped: StoppedError
    uses: tuple[DenoiserUse, ...]
    parts_around: dict[str, torch.nn.Module]
    drawn: tuple[int, ...]
    asked: dict[str, int]
    prepared: list[tuple[int, ...]]


class Body:
    """One step of a pipeline for given prompts.

    With a `place` it is that step of the loop. It does not depend on what the networks return at earlier
    steps, so they are not called there.

    Attributes:
        conditions: the tensors that the pipeline's encoders return, by name.
        uses: the calls of the denoiser, in order.
        pictures: B, how many there are.
        latent_shape: of one picture, as the loop has it.
        drawn: shape of the noise that the pipeline draws, `[B, ...]`.
        scales_latents: whether it multiplies that noise by the scheduler's `init_noise_sigma`.
        asked: height, width and frames, as far as the pipeline says what it prepares latents for.
        steps_latents: whether the scheduler steps the latents alone, not both halves of a batch.
        parts_around: the modules other than the denoiser that a step calls, by name.
    """

    def __init__(
        self,
        pipeline: OpenedPipeline,
        request: Request,
        texts: FixedTexts | None = None,
        place: Place | None = None,
    ) -> None:
        """Run the pipeline's encoders and its loop up to one step, and note what that does.

        Args:
            pipeline: whose step.
            request: what to sample.
            texts: how its texts are made as long as the longest; None leaves them as they are.
            place: of the step; None if all steps do the same.

        Raises:
            SearchError: the pipeline fails, or its loop is none that a sampler table can drive.
        """
        require_one_loop(pipeline.pipe)
        self.pipeline, self._texts, self._place = pipeline, texts, place
        self.request = _traceable(request, place)
        self.pictures = len(request.prompts) * request.images
        self._answers, self._encoding = Answers(), Encoding(pipeline.pipe)
        self._scheduler: Scheduled | None = None
        self._earlier: list[Any] = []
        self.labels = pipeline.family.labels(pipeline.pipe, request)
        fixed = nullcontext() if texts is None else texts.answered(pipeline.pipe, request)
        with fixed:
            recorded = self._recorded()
        self.uses, self.asked = recorded.uses, recorded.asked
        self.parts_around = {
            name: part
            for name, part in recorded.parts_around.items()
            if name not in self._encoding.parts
        }
        self._require_untouched()
        self.conditions = conditions_of(self._encoding, self.labels)
        if texts is not None:
            self.conditions = {**self.conditions, **texts.inputs}
        stopped = recorded.stopped
        self.drawn = recorded.drawn or tuple(stopped.sample.shape)
        self.steps_latents = len(stopped.sample) == self.pictures
        self._folding = folding_of(
            stopped.sample, self.drawn, self.pictures, *recorded.prepared[:1]
        )
        latents = self._in_loop(stopped.sample)[: self.pictures]
        self.latent_shape = tuple(latents.shape[1:])
        self._order = latents.flatten()
        self.scales_latents = bool(self._order.max() > math.prod(self.drawn) - 1)
        prediction = self._in_loop(stopped.prediction)[: self.pictures]
        _require_prediction(pipeline.pipe, prediction, latents)

    def _recorded(self) -> _Recorded:
        """What the pipeline does from its prompt to the scheduler's step, with numbered noise."""
        pipe = self.pipeline.pipe
        with (
            numbered_noise(pipe) as drawn,
            sizes_noted(pipe) as asked,
            shape_noted(pipe) as prepared,
            self._encoding.noted(),
            self._uses_noted() as uses,
            self._parts_noted() as parts_around,
            self._answers.recorded(unless=lambda: self._encoding.is_encoding),
            self._shapes_only(self._answers),
            torch.no_grad(),
        ):
            stopped = self._run(self._scheduled(torch.tensor(1.0)), self.request)
        if not uses:
            msg = (
                f"{type(pipe).__name__} does not call its {self.pipeline.family.component} at the last "
                "steps; such pipelines are not supported"
            )
            raise SearchError(msg)
        return _Recorded(
            stopped,
            uses=tuple(uses),
            parts_around=parts_around,
            drawn=drawn[0] if drawn else (),
            asked=asked,
            prepared=prepared,
        )

    @property
    def numbers(self) -> list[tuple[str, int, Any]]:
        """What the step reads from tensors as numbers; a trace has them as constants."""
        return numbers_among(self._answers)

    @property
    def rows(self) -> int:
        """Of the batch of the denoiser's first call."""
        return self.uses[0].rows

    @property
    def guided(self) -> bool:
        """Whether the denoiser sees every picture with and without its prompt."""
        return sum(use.rows for use in self.uses) > self.pictures

    def layout(self) -> tuple[int, ...] | None:
        """Per element of the latents, which element of the drawn noise it is; None: its own.

        Raises:
            SearchError: the latents are not the noise in another order.
        """
        if self.latent_shape == self.drawn[1:]:
            return None
        order = (self._order / (SCALE if self.scales_latents else 1)).long()
        if not torch.equal(order.sort().values, torch.arange(math.prod(self.drawn))):
            msg = (
                f"the pipeline does more than reorder its noise {self.drawn} to make latents "
                f"{(self.pictures, *self.latent_shape)}; such pipelines are not supported"
            )
            raise SearchError(msg)
        return tuple(order.tolist())

    def __call__(
        self,
        latents: Tensor,
        timestep: Tensor,
        *,
        guidance: float | Tensor | None = None,
        conditions: Mapping[str, Tensor] | None = None,
        networks: Mapping[str, Any] | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The prediction `[B, ...]` that the scheduler would get; can be traced and differentiated.

        Args:
            latents: the denoiser's input as the scheduler scales it, `[B, ...]`.
            timestep: `[]`.
            guidance: scale; None is the request's.
            conditions: take the place of the recorded ones.
            networks: take the place of the pipeline's.
            parts: take the place of those around them.
        """
        given = self.conditions if conditions is None else conditions
        pipe = self.pipeline.pipe
        scale = self.request.guidance if guidance is None else guidance
        request = replace(self.request, guidance=scale, labels=given.get(LABELS))
        scheduler = self._scheduled(timestep, latents)
        with (
            with_parts(pipe, **(networks or {}), **(parts or {})),
            self._encoding.answering(given),
            nullcontext() if self._texts is None else without_padding(self._texts, given),
            latents_replaced(pipe, lambda made: in_latents(made, latents)),
            self._answers.repeated(scheduler.timesteps),
            self._calls_skipped(),
        ):
            prediction = self._in_loop(self._run(scheduler, request).prediction)
        return prediction[: len(latents)]

    @property
    def is_before(self) -> bool:
        """Whether the pipeline is at a step before this one, so that its calls are ignored."""
        return self._scheduler is not None and self._scheduler.remaining > 0

    def _scheduled(self, timestep: Tensor, latents: Tensor | None = None) -> Scheduled:
        """The stand-in for the scheduler; `timestep` and `latents` are those of this step."""
        own, place = self.pipeline.pipe.scheduler, self._place
        times = timestep.reshape(1)
        if place is None:
            return Scheduled(times, own)
        if latents is None:  # the run that records takes the way of the step's own timestep
            times = torch.tensor(place.timesteps[place.step : place.step + 1])
        others = torch.tensor(place.timesteps, dtype=times.dtype, device=times.device)
        after = others[place.step + 1 :]
        if len(after):
            after = torch.cat([following(others, times), after[1:]])
        times = torch.cat([others[: place.step], times, after])
        if latents is not None and self._folding is not None:
            latents = self._folding.done(latents)
        self._scheduler = Scheduled(times, own, before=place.step, latents=latents)
        return self._scheduler

    @contextmanager
    def _calls_skipped(self) -> Iterator[None]:
        """While open, modules called at earlier steps return zeros of the shapes that were noted."""
        if not self._earlier:
            yield
            return
        pipe = self.pipeline.pipe
        known = iter(self._earlier)
        with ExitStack() as stack:
            for name in dict.fromkeys(name for name, _ in self._earlier):
                module = getattr(pipe, name)
                stack.enter_context(replaced(module, "forward", self._skipping(module, known)))
            yield

    def _skipping(self, module: Any, known: Iterator[tuple[str, Any]]) -> Callable[..., Any]:
        """A module's `forward`, which returns zeros of the `known` shapes at earlier steps."""
        forward = module.forward

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.is_before:
                return forward(*args, **kwargs)
            _, shapes = next(known)
            return pytree.tree_map_only(_Shape, _Shape.zeros, shapes)

        return run

    @contextmanager
    def _shapes_only(self, answers: Answers) -> Iterator[None]:
        """While open, the networks compute nothing."""
        with ExitStack() as stack:
            for network in self.pipeline.networks.values():
                stack.enter_context(shapes_only(network, answers))
            yield

    def _in_loop(self, handed: Tensor) -> Tensor:
        """What the scheduler is handed, in the shape of the loop's latents."""
        return handed if self._folding is None else self._folding.undone(handed)

    def _run(self, scheduler: Any, request: Request) -> StoppedError:
        """The pipeline's call up to the first step of `scheduler`."""
        pipe = self.pipeline.pipe
        try:
            with (
                pipeline_failures(pipe),
                on_vae_device(pipe),
                with_gradients(pipe),
                other_schedulers_refused(pipe),
                tensors_as_numbers(),
                with_parts(pipe, scheduler=scheduler),
            ):
                self.pipeline.family.call(pipe, request, _generator(request))
        except StoppedError as stopped:
            return stopped
        except SearchError as error:
            if _looks_ahead(pipe, error.__cause__):
                msg = (
                    f"{type(pipe).__name__} does not run with a single timestep, because it "
                    "reads several timesteps of its scheduler at once; such pipelines are not "
                    "supported"
                )
                raise SearchError(msg) from error
            if not isinstance(error.__cause__, UnboundLocalError):
                raise
        msg = (
            f"{type(pipe).__name__} makes no step at the last timestep of its scheduler, but a "
            "bundle makes one at every timestep; such pipelines are not supported"
        )
        raise SearchError(msg)

    @contextmanager
    def _uses_noted(self) -> Iterator[list[DenoiserUse]]:
        """While open, note the calls of the networks."""
        uses: list[DenoiserUse] = []

        def note(module: Any, args: Any, kwargs: Any) -> None:
            if self.is_before:
                return
            arguments = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
            first = next(iter([*arguments.arguments.values()][1:]))
            uses.append(DenoiserUse(len(first), isinstance(first, Tensor)))

        with ExitStack() as stack:
            for network in self.pipeline.networks.values():
                handle = network.register_forward_pre_hook(note, with_kwargs=True)
                stack.callback(handle.remove)
            yield uses

    @contextmanager
    def _parts_noted(self) -> Iterator[dict[str, torch.nn.Module]]:
        """While open, note which other modules the step calls, and what earlier steps return."""
        found: dict[str, torch.nn.Module] = {}

        def noting(name: str) -> Callable[..., None]:
            def note(module: torch.nn.Module, _: Any, output: Any) -> None:
                if self._encoding.is_encoding:
                    return
                if self.is_before:
                    self._earlier.append((name, pytree.tree_map_only(Tensor, _Shape.of, output)))
                elif name not in self.pipeline.networks:
                    found[name] = module

            return note

        with ExitStack() as stack:
            for name, part in self.pipeline.pipe.components.items():
                if isinstance(part, torch.nn.Module):
                    stack.callback(part.register_forward_hook(noting(name)).remove)
            yield found

    def _require_untouched(self) -> None:
        """Refuse a loop that changes what its scheduler returns, as inpainting can."""
        if not sources_of(self.pipeline.pipe):
            return
        twice = Twice(torch.tensor([2.0, 1.0]), self.pipeline.pipe.scheduler)
        with self._shapes_only(Answers()), torch.no_grad():
            stopped = self._run(twice, self.request)
        if twice.returned is None or not torch.equal(stopped.sample, twice.returned):
            msg = (
                f"{type(self.pipeline.pipe).__name__} changes its latents after each step, for "
                "example to restore what a mask keeps, which is not supported; take a pipeline "
                "whose denoiser reads the picture and the mask, with 9 input channels or more"
            )
            raise SearchError(msg)


def _traceable(request: Request, place: Place | None) -> Request:
    """The request as traces take it: the guidance scale is a tensor, and latents come later."""
    guidance = torch.tensor(float(request.guidance))
    made = replace(request, latents=None, guidance=guidance, guides=request.is_guided)
    return made if place is None else replace(made, steps=place.inference_steps)


def following(grid: Tensor, timestep: Tensor) -> Tensor:
    """The timestep `[1]` that follows one of a grid `[N]`, whichever step of a group that is."""
    place = (grid[:-1] - timestep).abs().argmin().reshape(1)
    return grid[1:].index_select(0, place)


def _looks_ahead(pipe: Any, error: BaseException | None) -> bool:
    """Whether the pipeline's call itself has read an element beyond the end."""
    place = None if error is None else error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    call = inspect.unwrap(type(pipe).__call__).__code__
    is_in_call = place is not None and place.tb_frame.f_code is call
    return isinstance(error, IndexError) and is_in_call and not is_exporting()


def _require_prediction(pipe: Any, prediction: Tensor, latents: Tensor) -> None:
    """Refuse a prediction of another shape than the latents."""
    if prediction.shape == latents.shape:
        return
    given = (
        f"{type(pipe).__name__} gives its scheduler a prediction {tuple(prediction.shape)} for latents "
        f"{tuple(latents.shape)}"
    )
    kind = str(getattr(pipe.scheduler.config, "variance_type", ""))
    if kind.startswith("learned"):
        msg = (
            f"{given}: half of it is the variance of the noise that the scheduler draws, so the "
            "step is not affine; take a fixed variance with --scheduler-option "
            "variance_type=fixed_small"
        )
    else:
        msg = f"{given}, but both must have the same shape; such pipelines are not supported"
    raise SearchError(msg)


def _generator(request: Request) -> torch.Generator | None:
    return None if request.seed is None else torch.Generator().manual_seed(request.seed)


@dataclass(frozen=True)
class _Shape:
    """A tensor whose values do not matter."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(tensor: Tensor) -> _Shape:
        """The shape of a tensor."""
        return _Shape(tensor.shape, tensor.dtype, tensor.device)

    def zeros(self) -> Tensor:
        """A tensor of that shape."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
