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
from typing import TYPE_CHECKING, Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from search.core.errors import SearchError
from search.model.answers import Answers, numbers_among, tensors_as_numbers
from search.model.encoding import LABELS, Encoding, conditions_of
from search.model.entry import in_latents, latents_replaced, numbered_noise, sizes_noted
from search.model.failures import pipeline_failures
from search.model.folding import folding_of
from search.model.hidden_keys import without_padding
from search.model.hollow import shapes_only
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.pictures import sources_of
from search.model.scheduler import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from search.model.family import OpenedPipeline, Request
    from search.model.fixed_texts import FixedTexts

_SCALE = 2.0
"""What the stand-in for a scheduler calls its `init_noise_sigma`, to see who multiplies by it."""


@dataclass(frozen=True)
class DenoiserUse:
    """One call of the denoiser within a body.

    Attributes:
        rows: of its batch.
    """

    rows: int


class Body:
    """One step of a pipeline for given prompts.

    Attributes:
        conditions: the tensors that the pipeline's encoders return, by name.
        uses: the calls of the denoiser, in order.
        pictures: B, how many there are.
        latent_shape: of one picture, as the loop has it.
        drawn: shape of the noise that the pipeline draws, `[B, ...]`.
        scales_latents: whether it multiplies that by the scheduler's `init_noise_sigma`.
        asked: height, width and frames, as far as the pipeline says what it prepares latents for.
        steps_latents: whether the scheduler steps the latents alone, not both halves of a batch.
        parts_around: the modules other than the denoiser that a step calls, by name.
    """

    def __init__(
        self, pipeline: OpenedPipeline, request: Request, texts: FixedTexts | None = None
    ) -> None:
        """Run the pipeline's encoders and one step of its loop, and note what it does.

        Args:
            pipeline: whose step.
            request: what to sample.
            texts: how its texts are made as long as the longest; None leaves them as they are.

        Raises:
            SearchError: the pipeline fails, or its loop is none that a sampler table can drive.
        """
        guidance = torch.tensor(float(request.guidance))
        self.pipeline, self._texts = pipeline, texts
        fixed = nullcontext() if texts is None else texts.answered(pipeline.pipe, request)
        self.request = replace(request, latents=None, guidance=guidance, guides=request.is_guided)
        self.pictures = len(request.prompts) * request.images
        self._answers, self._encoding = Answers(), Encoding(pipeline.pipe)
        self.labels = pipeline.family.labels(pipeline.pipe, request)
        with (
            fixed,
            numbered_noise(pipeline.pipe) as drawn,
            sizes_noted(pipeline.pipe) as self.asked,
            self._encoding.noted(),
            self._uses_noted() as uses,
            self._parts_noted() as self.parts_around,
            self._answers.recorded(unless=lambda: self._encoding.is_encoding),
            shapes_only(pipeline.denoiser, self._answers),
            torch.no_grad(),
        ):
            stopped = self._run(
                Scheduled(torch.tensor([1.0]), pipeline.pipe.scheduler), self.request
            )
        for name in self._encoding.parts:
            self.parts_around.pop(name, None)
        self._require_untouched()
        self.conditions = conditions_of(self._encoding, self.labels)
        if texts is not None:
            self.conditions = {**self.conditions, **texts.inputs}
        if not uses:
            msg = (
                f"a {type(pipeline.pipe).__name__} does not call its {pipeline.family.component} at the last "
                "steps; such pipelines are not supported"
            )
            raise SearchError(msg)
        self.uses = tuple(uses)
        self.drawn = drawn[0] if drawn else tuple(stopped.sample.shape)
        self.steps_latents = len(stopped.sample) == self.pictures
        self._folding = folding_of(stopped.sample, self.drawn, self.pictures)
        latents = self._in_loop(stopped.sample)[: self.pictures]
        self.latent_shape = tuple(latents.shape[1:])
        self._order = latents.flatten()
        self.scales_latents = bool(self._order.max() > math.prod(self.drawn) - 1)
        prediction = self._in_loop(stopped.prediction)[: self.pictures]
        _require_prediction(pipeline.pipe, prediction, latents)

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
        order = (self._order / (_SCALE if self.scales_latents else 1)).long()
        if not torch.equal(order.sort().values, torch.arange(math.prod(self.drawn))):
            msg = (
                f"the pipeline makes latents {(self.pictures, *self.latent_shape)} of noise "
                f"{self.drawn} by more than reordering it; such pipelines are not supported"
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
        denoiser: Any = None,
        parts: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The prediction `[B, ...]` that the scheduler would get; can be traced and differentiated.

        Args:
            latents: the denoiser's input as the scheduler scales it, `[B, ...]`.
            timestep: `[]`.
            guidance: scale; None is the request's.
            conditions: take the place of the recorded ones.
            denoiser: takes the place of the pipeline's.
            parts: take the place of those around it.
        """
        given = self.conditions if conditions is None else conditions
        pipe = self.pipeline.pipe
        scale = self.request.guidance if guidance is None else guidance
        request = replace(self.request, guidance=scale, labels=given.get(LABELS))
        own = {} if denoiser is None else {self.pipeline.family.component: denoiser}
        with (
            with_parts(pipe, **own, **(parts or {})),
            self._encoding.answering(given),
            nullcontext() if self._texts is None else without_padding(self._texts, given),
            latents_replaced(pipe, lambda made: in_latents(made, latents)),
            self._answers.repeated(),
        ):
            scheduler = Scheduled(timestep.reshape(1), pipe.scheduler)
            prediction = self._in_loop(self._run(scheduler, request).prediction)
        return prediction[: len(latents)]

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
                tensors_as_numbers(),
                with_parts(pipe, scheduler=scheduler),
            ):
                self.pipeline.family.call(pipe, request, _generator(request))
        except StoppedError as stopped:
            return stopped
        msg = f"{type(pipe).__name__} makes no step of its scheduler; such pipelines are not supported"
        raise SearchError(msg)

    @contextmanager
    def _uses_noted(self) -> Iterator[list[DenoiserUse]]:
        """While open, note the calls of the denoiser."""
        uses: list[DenoiserUse] = []

        def note(module: Any, args: Any, kwargs: Any) -> None:
            arguments = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
            first = next(iter([*arguments.arguments.values()][1:]))
            uses.append(DenoiserUse(len(first)))

        handle = self.pipeline.denoiser.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield uses
        finally:
            handle.remove()

    @contextmanager
    def _parts_noted(self) -> Iterator[dict[str, torch.nn.Module]]:
        """While open, note which modules the loop calls beside the denoiser."""
        found: dict[str, torch.nn.Module] = {}
        denoiser = self.pipeline.denoiser

        def noting(name: str) -> Callable[..., None]:
            def note(module: torch.nn.Module, _: Any) -> None:
                if not self._encoding.is_encoding:
                    found[name] = module

            return note

        with ExitStack() as stack:
            for name, part in self.pipeline.pipe.components.items():
                if isinstance(part, torch.nn.Module) and part is not denoiser:
                    stack.callback(part.register_forward_pre_hook(noting(name)).remove)
            yield found

    def _require_untouched(self) -> None:
        """Refuse a loop that changes what its scheduler returns, as painting with a mask can."""
        if not sources_of(self.pipeline.pipe):
            return
        twice = _Twice(torch.tensor([2.0, 1.0]), self.pipeline.pipe.scheduler)
        with shapes_only(self.pipeline.denoiser, Answers()), torch.no_grad():
            stopped = self._run(twice, self.request)
        if twice.returned is None or not torch.equal(stopped.sample, twice.returned):
            msg = (
                f"{type(self.pipeline.pipe).__name__} changes its latents behind each step, as to put back "
                "what a mask leaves out; that is not supported: take a pipeline whose network is given "
                "picture and mask, with 9 channels or more"
            )
            raise SearchError(msg)


def _require_prediction(pipe: Any, prediction: Tensor, latents: Tensor) -> None:
    """Refuse a prediction that is more than one of the latents."""
    if prediction.shape == latents.shape:
        return
    given = (
        f"{type(pipe).__name__} gives its scheduler a prediction {tuple(prediction.shape)} for latents "
        f"{tuple(latents.shape)}"
    )
    kind = str(getattr(pipe.scheduler.config, "variance_type", ""))
    if kind.startswith("learned"):
        msg = (
            f"{given}: half of it is the variance of the noise that the scheduler draws, so that is no "
            "affine map; draw noise of the usual variance with --scheduler-option "
            "variance_type=fixed_small"
        )
    else:
        msg = f"{given}, which is of another shape; such pipelines are not supported"
    raise SearchError(msg)


def _generator(request: Request) -> torch.Generator | None:
    return None if request.seed is None else torch.Generator().manual_seed(request.seed)


class StoppedError(Exception):
    """Ends a pipeline's call at the first step of its scheduler.

    Attributes:
        prediction: what the scheduler is handed.
        sample: the latents that it is to step.
    """

    def __init__(self, prediction: Tensor, sample: Tensor) -> None:
        super().__init__()
        self.prediction, self.sample = prediction, sample


class Scheduled(StandIn):
    """A stand-in for a pipeline's scheduler with one timestep, which ends the call at its step."""

    init_noise_sigma = _SCALE

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """End the call."""
        del timestep, return_dict, others
        raise StoppedError(model_output, sample)


class _Twice(Scheduled):
    """Likewise with two timesteps: its first step returns latents of one value.

    Attributes:
        returned: these.
    """

    returned: Tensor | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """The first returns, the second ends the call."""
        del others
        if self.returned is not None:
            super().step(model_output, timestep, sample)
        self.returned = torch.full_like(sample, 0.5)
        return SchedulerOutput(self.returned) if return_dict else (self.returned, self.returned)

    def add_noise(self, original_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """None."""
        return original_samples

    def scale_noise(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        """None."""
        return sample
