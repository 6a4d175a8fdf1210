"""Whether a pipeline can be compiled, and what that takes: read off its configuration, without its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.preflight import BASE_MEMORY, Needs, needs_of, parameters_of
from search.core.blocks import abridged
from search.core.errors import SearchError
from search.core.granularity import Granularity
from search.core.timestep_grid import TimestepGrid
from search.model.activations import peak_bytes
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.parts import weight_files
from search.model.pipeline_files import read_index
from search.model.weights import DenoiserWeights
from search.model.whole import whole_trace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from search.model.family import Family
    from search.model.pipeline import Pipeline

_DTYPE = torch.float32
"""Of a search, and of the export that is reckoned with."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of one call of the denoiser at a granularity: how many, and their names abridged."""

    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """What the configuration says before anything is run.

    Attributes:
        denoiser: its class.
        parameters: of the denoiser.
        parameters_around: of all other models.
        scheduler: its class.
        steps: by default.
        guidance: scale by default; 1 is none.
        blocks: by granularity.
        export: in float32.
    """

    denoiser: str
    parameters: int
    parameters_around: int
    scheduler: str
    steps: int
    guidance: float
    blocks: dict[Granularity, Blocks] = field(hash=False)
    export: Needs


@dataclass(frozen=True)
class Step:
    """What a trace says of one step for one picture.

    Attributes:
        streams: the calls of the denoiser; the empty name if there is one.
        rows: of the batch of each.
        calls: the streams of each group of steps that do the same.
        picture: height, width and a video's frames.
        macs: multiply-accumulates.
        activations: bytes of the tensors that live at once, in float32, every block's output kept.
        libraries: bytes of the libraries and the traced graphs.
        search_memory: bytes that a search without gradients takes: the libraries, all weights in
            float32, and the activations.
        prompt_inputs: what the text encoders read of a prompt.
    """

    streams: tuple[str, ...]
    rows: tuple[int, ...]
    calls: tuple[tuple[str, ...], ...]
    picture: tuple[int, ...]
    macs: int
    activations: int
    libraries: int
    search_memory: int
    prompt_inputs: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a pipeline.

    Attributes:
        pipeline: its class.
        obstacle: what stands in the way of compiling it, in one sentence; None if nothing does.
        without_weights: the parts whose weight files are not there.
        parts: None if it cannot be opened.
        step: None if no step can be traced.
    """

    pipeline: str
    obstacle: str | None = None
    without_weights: tuple[str, ...] = ()
    parts: Parts | None = None
    step: Step | None = None

    @property
    def compiles(self) -> bool:
        """Whether nothing stands in the way."""
        return self.obstacle is None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"compiles": self.compiles, **asdict(self)}


def diagnose(
    path: Path, size: tuple[int, ...] | None = None, call: Mapping[str, Any] | None = None
) -> Diagnosis:
    """Look at the pipeline at `path`.

    Args:
        path: a directory written by `save_pretrained`; weight files may be missing.
        size: of the pictures, height and width, and a video's frames; None is the pipeline's own.
        call: further arguments of the pipeline's call.

    Raises:
        SearchError: there is no pipeline, or its call takes no such argument.
    """
    found = Diagnosis(read_index(path)["_class_name"])
    try:
        pipeline = open_pipeline(path, weights=False, files=False)
    except SearchError as error:
        return replace(found, obstacle=str(error))
    pipeline.use_call(call or {})
    lacking = _without_weights(pipeline)
    found = replace(found, parts=_parts(pipeline), without_weights=lacking)
    try:
        _require_weights(pipeline, lacking)
        return replace(found, step=_step(pipeline, size))
    except (SearchError, ExportError) as error:
        return replace(found, obstacle=str(error))


def _models(pipeline: Pipeline) -> dict[str, nn.Module]:
    components = pipeline.pipe.components.items()
    return {name: part for name, part in components if isinstance(part, nn.Module)}


def _without_weights(pipeline: Pipeline) -> tuple[str, ...]:
    """The models in whose folders there is no weight file at all."""

    def has_weights(folder: Path) -> bool:
        return any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir())

    return tuple(name for name in _models(pipeline) if not has_weights(pipeline.path / name))


def _require_weights(pipeline: Pipeline, lacking: tuple[str, ...]) -> None:
    """Refuse weight files that are there and cannot be loaded."""
    for name, model in _models(pipeline).items():
        if name in lacking:
            continue
        folder = pipeline.path / name
        if name in pipeline.networks:
            DenoiserWeights(folder).require_fit(model)
        else:
            weight_files(type(model), folder)


def _parts(pipeline: Pipeline) -> Parts:
    own, around = parameters_of(pipeline)
    names = {each: pipeline.family.blocks(pipeline.denoiser, each) for each in Granularity}
    return Parts(
        denoiser=type(pipeline.denoiser).__name__,
        parameters=own,
        parameters_around=around,
        scheduler=type(pipeline.pipe.scheduler).__name__,
        steps=pipeline.default_steps,
        guidance=pipeline.default_guidance,
        blocks={each: Blocks(len(found), abridged(found)) for each, found in names.items()},
        export=needs_of(pipeline, str(_DTYPE).removeprefix("torch.")),
    )


def _step(pipeline: Pipeline, size: tuple[int, ...] | None) -> Step:
    """Do what an export does before it needs a weight."""
    guidance = pipeline.default_guidance
    traced = whole_trace(
        pipeline,
        grid=TimestepGrid(pipeline.default_steps),
        granularity=Granularity.BRANCH,
        guidance=guidance,
        size=size,
    )
    picture = pipeline.size(traced.noise_shape)
    request = Request((pipeline.default_prompt,), pipeline.default_steps, guidance).sized(picture)
    weightless: Any = _Weightless.of(pipeline)
    prompts = pipeline.family.conditioner(weightless, request)
    activations = peak_bytes(traced.program)
    streams, groups = traced.topology.streams, traced.topology.groups
    calls = (streams,) if groups is None else groups.calls
    rows = {
        stream: use.rows
        for made, body in zip(calls, traced.bodies, strict=True)
        for stream, use in zip(made, body.uses, strict=True)
    }
    return Step(
        streams=streams,
        rows=tuple(rows[stream] for stream in streams),
        calls=calls,
        picture=picture,
        macs=round(traced.topology.macs),
        activations=activations,
        libraries=BASE_MEMORY,
        search_memory=BASE_MEMORY + _weights(pipeline) + activations,
        prompt_inputs=tuple(each.name for each in prompts.inputs),
    )


def _weights(pipeline: Pipeline) -> int:
    """Bytes of all weights during a search."""
    return _DTYPE.itemsize * sum(parameters_of(pipeline))


@dataclass(frozen=True)
class _Weightless:
    """A pipeline that loads no weights: its models answer with zeros, of which only shapes matter."""

    pipe: Any
    family: Family
    denoiser: Any
    networks: dict[str, Any]
    default_prompt: str

    @staticmethod
    def of(pipeline: Pipeline) -> _Weightless:
        """The same pipeline."""
        return _Weightless(
            pipeline.pipe,
            pipeline.family,
            pipeline.denoiser,
            pipeline.networks,
            pipeline.default_prompt,
        )

    def load_around(self) -> None:
        """Load nothing."""
