"""A diffusers pipeline directory, opened: its parts, its sampler and its sizes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError
from search.core.subnet import Binding, SubNet
from search.model.body import Body
from search.model.families.text_to_image import call_parameters, scale_argument
from search.model.family import Family, Request
from search.model.guiders import guider_scale
from search.model.loaded import NetworksOfPipe
from search.model.parts import is_weightless, load_models
from search.model.parts_in_place import decoders_of
from search.model.pipeline_files import denoiser_of, with_weights
from search.model.recording import record_grid_settings
from search.model.removed import removed_of
from search.model.scheduler import GridSettings, read_sampler, unused
from search.model.scheduler_names import SHORT_NAMES, Choice, choice_of, require_options
from search.model.sizing import Sizing
from search.model.split_streams import split_streams
from search.model.weights import DenoiserWeights, plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from search.core.sampler import SamplerTable
    from search.core.timestep_grid import TimestepGrid


Size = tuple[int, ...]
"""Height and width of a picture in pixels, and the frames of a video."""
_SPREAD = 4
"""Dimensions of noise that shows its height and width; what is packed has fewer."""
_UNLISTED = frozenset({"LCMScheduler", "SASolverScheduler", "TCDScheduler"})
"""Schedulers of the same noise schedules that diffusers does not list as compatible."""


@dataclass(frozen=True)
class Pipeline(NetworksOfPipe):
    """A diffusers pipeline, its family and where its weights lie.

    Attributes:
        path: the directory.
        pipe: diffusers' pipeline object. It has weights only with `open_pipeline(weights=True)`.
        family: what is known about its kind.
        weights: the denoiser's weights on disk.
        index: what model_index.json says.
    """

    path: Path
    pipe: Any
    family: Family
    weights: DenoiserWeights
    index: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _own_scheduler: list[Any] = field(default_factory=list, repr=False, compare=False)
    _steps: list[int] = field(default_factory=list, repr=False, compare=False)
    _changed: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _call: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _grid_settings: dict[tuple[str, TimestepGrid, Size | None], GridSettings] = field(
        default_factory=dict, repr=False, compare=False
    )
    _sizes: dict[tuple[int, ...], Size] = field(default_factory=dict, repr=False, compare=False)
    _split: list[bool] = field(default_factory=list, repr=False, compare=False)
    _bodies: dict[Size | None, Body] = field(default_factory=dict, repr=False, compare=False)
    _other_weights: dict[str, DenoiserWeights] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Remember the scheduler that the pipeline came with."""
        self._own_scheduler.append(self.pipe.scheduler)

    def weights_of(self, network: str) -> DenoiserWeights:
        """Those of a network on disk."""
        if network == self.family.component:
            return self.weights
        if network not in self._other_weights:
            self._other_weights[network] = DenoiserWeights(self.path / network)
        return self._other_weights[network]

    @property
    def dtype(self) -> str:
        """Of the denoiser's weights and activations, one of `denoiser_precisions`."""
        return str(self.denoiser.dtype).removeprefix("torch.")

    def read_denoiser(self) -> Any:
        """The denoiser again, with its weights in float32."""
        return with_weights(denoiser_of(self.path, self.family, self.index), self.weights)

    @property
    def removed(self) -> tuple[str, ...]:
        """The blocks that were taken out of the denoiser for good."""
        return removed_of(self.denoiser.config)

    @cached_property
    def fingerprint(self) -> str:
        """Of the denoiser's configuration and weights, and of those of other networks."""
        each = [self.weights_of(name).fingerprint(n.config) for name, n in self.networks.items()]
        return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()

    @property
    def default_guidance(self) -> float:
        """The guidance scale of diffusers' own call; 1, which is none, for a pipeline without any."""
        name = scale_argument(self.pipe)
        if name not in call_parameters(self.pipe):
            return guider_scale(self.pipe)
        return float(self._default_of(name, 1.0))

    @property
    def some_steps(self) -> int:
        """A number of steps that the pipeline's call takes, as that of a list with a value for each."""
        return self._steps[0] if self._steps else 2

    @property
    def default_steps(self) -> int:
        """The inference steps of diffusers' own call."""
        return int(self._default_of("num_inference_steps", 50))

    def _default_of(self, name: str, otherwise: float) -> float:
        """The default of a number in the pipeline's call; `otherwise` if it has none."""
        given = call_parameters(self.pipe).get(name)
        if given is None or not isinstance(given.default, int | float):
            return otherwise
        return given.default

    @property
    def multiple(self) -> int:
        """What heights and widths must be multiples of, in pixels."""
        for name in ("image_processor", "video_processor"):
            if hasattr(self.pipe, name):
                return int(getattr(self.pipe, name).config.vae_scale_factor)
        return self._factor

    @property
    def _factor(self) -> int:
        """Pixels per element of the noise, in each direction."""
        # Not every pipeline says it; those that do compute it so too.
        said = getattr(self.pipe, "vae_scale_factor", None)
        if said is not None:
            return int(said)
        decoder: Any = next(iter(decoders_of(self.pipe).values()), None)
        config = getattr(decoder, "config", {})
        return int(2 ** (len(config.get("block_out_channels", "1")) - 1))

    def load_around(self) -> None:
        """Load the weights of all models but the denoiser, if the pipeline was opened without."""
        if self._lacks_weights:
            found = load_models(self.path, self.index, but=self.networks)
            self.pipe.register_modules(**{n: m.requires_grad_(False) for n, m in found.items()})

    @property
    def _lacks_weights(self) -> bool:
        """Whether a model other than the networks has none."""
        parts = self.pipe.components.items()
        return any(is_weightless(part) for name, part in parts if name not in self.networks)

    @property
    def scheduler_choice(self) -> Choice:
        """The present scheduler, as `use_scheduler` takes it."""
        return Choice(type(self.pipe.scheduler).__name__, dict(self._changed))

    def use_scheduler(self, name: str | None, options: Mapping[str, Any] | None = None) -> None:
        """Replace the scheduler by another class with the same noise schedule, or change its settings.

        Args:
            name: a class of diffusers or one of `SHORT_NAMES`; None keeps the class.
            options: settings of its own, which take the place of the present ones.

        Raises:
            SearchError: the pipeline cannot use it, or it has no such setting.
        """
        import diffusers

        own: Any = self._own_scheduler[0]
        choice = self.scheduler_choice if name is None else choice_of(name)
        changed = {**choice.options, **(options or {})}
        self._require_scheduler(choice.cls)
        is_same = choice.cls == type(own).__name__
        cls: Any = type(own) if is_same else getattr(diffusers, choice.cls)
        require_options(cls, changed)
        try:
            self.pipe.scheduler = (
                own if is_same and not changed else cls.from_config(own.config, **changed)
            )
        except Exception as error:  # for settings that cannot be, each raises something else
            message = " ".join(str(error).split())
            msg = f"the scheduler {choice.cls!r} cannot be used here: {message}"
            raise SearchError(msg) from error
        self._changed.clear()
        self._changed.update(changed)

    def use_call(self, arguments: Mapping[str, Any]) -> None:
        """Give the pipeline's call further arguments, such as `max_sequence_length`.

        Raises:
            SearchError: its call has no such argument.
        """
        takes = call_parameters(self.pipe)
        unknown = sorted(arguments.keys() - takes.keys())
        if unknown:
            msg = (
                f"{self.family.pipeline} takes no {', '.join(unknown)}; its call takes "
                f"{', '.join(name for name in takes if name != 'self')}"
            )
            raise SearchError(msg)
        self._call.update(arguments)
        self.family.settings = {**self.family.settings, **arguments}

    @property
    def is_split(self) -> bool:
        """Whether its one call for both halves of guidance is made as two."""
        return bool(self._split)

    def split_streams(self) -> None:
        """Make the denoiser's call for both halves of guidance as two, for good.

        Raises:
            SearchError: the pipeline does not put both halves into one batch.
        """
        if not self.is_split:
            split_streams(self)
            self._split.append(True)
            self._bodies.clear()

    def _require_scheduler(self, cls: str) -> None:
        """Refuse a class of schedulers with another noise schedule than the pipeline's own."""
        own: Any = self._own_scheduler[0]
        known = {type(own).__name__, *(c.__name__ for c in own.compatibles)}
        if "DDIMScheduler" in known:
            known |= _UNLISTED
        if cls not in known:
            short = [name for name, choice in SHORT_NAMES.items() if choice.cls in known]
            msg = (
                f"no scheduler {cls!r} for this pipeline; choose one of {', '.join(sorted(known))}, or in "
                f"short {', '.join(short)}"
            )
            raise SearchError(msg)

    def size(self, noise_shape: tuple[int, ...]) -> Size:
        """Height and width of the picture that noise `[C, H, W]` becomes, and a video's frames."""
        return self._sizes.get(noise_shape) or self._sizing.size(noise_shape)

    @cached_property
    def _sizing(self) -> Sizing:
        """Read off any step of the loop that was looked at before, or off one of the default size."""
        body = next(iter(self._bodies.values()), None) or self.body()
        if not body.asked:
            return Sizing(rows=1, factor=self._factor)
        return Sizing.of(body.drawn[1:], body.asked)

    def grid_settings(self, grid: TimestepGrid, size: Size | None = None) -> GridSettings:
        """What the pipeline asks of its present scheduler for pictures of `size` (height, width)."""
        self._steps[:] = [grid.inference_steps]
        key = (repr(self.pipe.scheduler), grid, size)
        if key not in self._grid_settings:
            try:
                self._grid_settings[key] = record_grid_settings(self, grid, size)
            except SearchError as error:
                # The call reaches into a model that has no weights and answers as a whole only.
                if "meta" not in str(error.__cause__) or not self._lacks_weights:
                    raise
                self.load_around()
                self._grid_settings[key] = record_grid_settings(self, grid, size)
        return self._grid_settings[key]

    def body(self, size: Size | None = None) -> Body:
        """A step of the loop, for pictures of `size` (height, width)."""
        if size not in self._bodies:
            prompts = (self.default_prompt,)
            request = Request(prompts, self.some_steps, self.default_guidance).sized(size)
            body = self._bodies[size] = Body(self, request)
            if size is not None and len(body.drawn) < _SPREAD:
                self._sizes[body.drawn[1:]] = size
        return self._bodies[size]

    def timesteps(self, grid: TimestepGrid, size: Size | None = None) -> tuple[float, ...]:
        """Those of the present scheduler, one per call, noisiest first."""
        scheduler = unused(self.pipe.scheduler)
        settings = self.grid_settings(grid, size)
        settings.apply(scheduler)
        return tuple(float(t) for t in settings.part(scheduler))

    def sampler_of(self, subnet: SubNet) -> SamplerTable:
        """The fitted sampler of a SubNet, or the present scheduler as a table for its grid and size.

        Raises:
            SearchError: as `sampler`.
        """
        if subnet.fitted is not None:
            return subnet.fitted.table
        binding = subnet.binding
        return self.sampler(binding.grid, self.size(binding.noise_shape))

    def sampler(self, grid: TimestepGrid, size: Size | None = None) -> SamplerTable:
        """The present scheduler as a table for `grid` and pictures of `size`.

        Raises:
            SearchError: no table says what it does, or this pipeline cannot use it.
        """
        scheduler: Any = self.pipe.scheduler
        settings = self.grid_settings(grid, size)
        body = self.body(size)
        if not body.scales_latents and getattr(scheduler, "init_noise_sigma", 1) != 1:
            msg = (
                f"{self.family.pipeline} cannot use {type(scheduler).__name__}, which expects "
                "scaled noise; choose one that does not, such as DDIMScheduler or "
                "UniPCMultistepScheduler"
            )
            raise SearchError(msg)
        table = read_sampler(scheduler, settings)
        draws = table.noises > (grid.adds_noise or not grid.takes_latents)
        if draws and not body.steps_latents:
            msg = (
                f"{self.family.pipeline} cannot use {type(scheduler).__name__}, which would draw "
                "noise for the unconditional half of the batch as well; choose one that draws "
                "none, such as DDIMScheduler or UniPCMultistepScheduler"
            )
            raise SearchError(msg)
        return table

    def binding(
        self,
        *,
        grid: TimestepGrid,
        guided: bool,
        latent_shape: tuple[int, ...],
        noise_shape: tuple[int, ...],
    ) -> Binding:
        """What a SubNet for this pipeline, its present scheduler and these settings is bound to."""
        scheduler: Any = self.pipe.scheduler
        return Binding(
            denoiser=type(self.denoiser).__name__,
            fingerprint=self.fingerprint,
            scheduler=type(scheduler).__name__,
            scheduler_config=plain(scheduler.config),
            scheduler_options=dict(self._changed),
            grid=grid,
            timesteps=self.timesteps(grid, self.size(noise_shape)),
            latent_shape=latent_shape,
            noise_shape=noise_shape,
            guided=guided,
            picture=self.size(noise_shape),
            call=dict(self._call),
            split_streams=self.is_split,
        )
