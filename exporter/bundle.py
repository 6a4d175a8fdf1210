"""The directory an export writes: its manifest and checksums, read back. No torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExportError
from exporter.shape import Shape, find_shape
from search.core.files import sha256
from search.core.lora import IPAdapter, Lora, placed
from search.core.pictures import example_picture
from search.core.precision import denoiser_precisions
from search.core.program import distinct
from search.core.prompt import Drawn, PromptField, PromptInput
from search.core.quantisation import Quantisation, part_precisions
from search.core.quotation import Quotation
from search.core.sampler import SamplerTable
from search.core.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from PIL.Image import Image

SCHEMA = 5
READABLE = (4, 5)
"""Before schema 5 no call had coefficients."""
KIND = "stepcarve-bundle"
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
QUANTISATION = "quantisation.json"


def require_dtype(name: str) -> None:
    """Refuse a dtype that a denoiser does not compute in."""
    _require_one_of(name, [each.name for each in denoiser_precisions()])


def require_part_dtype(name: str) -> None:
    """Refuse what neither text encoders nor autoencoders are stored in."""
    _require_one_of(name, part_precisions())


def _require_one_of(name: str, known: Sequence[str]) -> None:
    if name not in known:
        msg = f"unknown dtype {name!r}; choose one of {', '.join(known)}"
        raise ExportError(msg)


@dataclass(frozen=True)
class BundleCall:
    """One call of a step graph.

    Attributes:
        step: of the SubNet.
        timestep: whose rows of the prologue's outputs the graph reads.
        graph: index into `Bundle.graphs`.
        reads: graph input -> slot, for every cache it reads.
        writes: graph output -> slot, for every cache it writes.
        prediction: number of the noise prediction it makes, or None.
        coefficients: graph input -> its values, for what an action mixes.
    """

    step: int
    timestep: float
    graph: int
    reads: dict[str, int]
    writes: dict[str, int]
    prediction: int | None
    coefficients: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, opened at one of its variants; files are checked when they are opened.

    Variants make pictures of other shapes of the same SubNet, and share the weights file.

    Attributes:
        path: the directory.
        dtype: of the denoiser's weights and activations.
        text_dtype: that was requested for the text encoders.
        vae_dtype: that was requested for the autoencoder.
        parts: the dtype of each of these parts, where another than float32 was requested.
        guided: whether the denoiser sees every picture with and without its prompt.
        scaled: whether the graphs take a guidance scale: those of a guided pipeline, and of one whose
            network has it as an input.
        guidance: the scale to use when none is given.
        prompt_inputs: what the conditioner takes.
        encoder_inputs: what the encoder takes.
        labels: class name -> number; empty for texts.
        pipeline: directory of the pipeline it was exported from, as it was given.
        loras: that were fused into the pipeline's weights, in this order.
        live_loras: kept apart from these weights; a run may change their scales.
        ip_adapter: kept apart from these weights, or None; a run gives it a picture.
        quantisation: file of the plan by which its layers were quantised, or None.
        preview: matrix `[3, C + 1]` from the latents at a place, and 1, to its colour in 0..1, for
            approximate pictures; None where none was fitted.
        shapes: of all variants, the default first.
        files: file -> SHA-256, of all variants.
        shape: of this variant, as is everything below.
        latent_shape: `[B, C, H, W]`, or as the pipeline packs it.
        noise_shape: of the noise that a seed draws, `[B, C, H, W]`.
        subnet_file: the SubNet, bound to this size.
        conditioner: file of the graph from prompt inputs to conditions.
        prologue: file of the graph that computes loop invariants, or None.
        decoder: file of the graph from latents to pictures.
        encoder: file of the graph from a picture to the latents that the loop begins from, or None.
        layout: file that says, per element of the latents, which element of the drawn noise it is;
            None: its own.
        rows: outputs of the prologue that have one row per timestep.
        graphs: file of each step graph.
        calls: in order.
        slots: shape of each cache buffer.
        sampler: one row per call, one column per value that is known and per noise prediction.
    """

    path: Path
    dtype: str
    text_dtype: str
    vae_dtype: str
    parts: dict[str, str]
    guided: bool
    scaled: bool
    guidance: float
    prompt_inputs: tuple[PromptInput, ...]
    encoder_inputs: tuple[PromptInput, ...]
    labels: dict[str, int]
    pipeline: str
    loras: tuple[Lora, ...]
    live_loras: tuple[Lora, ...]
    ip_adapter: IPAdapter | None
    quantisation: str | None
    preview: tuple[tuple[float, ...], ...] | None
    shapes: tuple[Shape, ...]
    files: dict[str, str]
    shape: Shape
    latent_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    subnet_file: str
    conditioner: str
    prologue: str | None
    decoder: str
    encoder: str | None
    layout: str | None
    rows: tuple[str, ...]
    graphs: tuple[str, ...]
    calls: tuple[BundleCall, ...]
    slots: tuple[tuple[int, ...], ...]
    sampler: SamplerTable

    def __post_init__(self) -> None:
        """Check that every part refers to what is there; every problem is a `ValueError`."""
        if self.dtype not in [each.name for each in denoiser_precisions()]:
            msg = f"dtype {self.dtype!r}"
            raise ValueError(msg)
        for dtype in (self.text_dtype, self.vae_dtype, *self.parts.values()):
            if dtype not in part_precisions():
                msg = f"dtype {dtype!r}"
                raise ValueError(msg)
        if self.rows and self.prologue is None:
            msg = f"the prologue, which should give {self.rows}"
            raise ValueError(msg)
        unlisted = sorted(self.needed - set(self.files))
        if unlisted:
            msg = f"the list of files, which leaves out {unlisted}"
            raise ValueError(msg)
        if not self.calls or len(self.sampler.inputs) != len(self.calls):
            msg = f"the sampler, {len(self.sampler.inputs)} rows for {len(self.calls)} calls"
            raise ValueError(msg)
        channels = math.prod(self.noise_shape[1:-2])
        if self.preview is not None and [len(row) for row in self.preview] != [channels + 1] * 3:
            msg = f"the preview, which is not 3 rows of {channels + 1} numbers"
            raise ValueError(msg)
        for number, call in enumerate(self.calls):
            slots = {*call.reads.values(), *call.writes.values()}
            if (
                not 0 <= call.graph < len(self.graphs)
                or not slots <= set(range(len(self.slots)))
                or call.prediction not in (None, *range(self.sampler.predictions))
            ):
                msg = f"call {number}, which names a graph, slot or prediction that is not there"
                raise ValueError(msg)

    @cached_property
    def subnet(self) -> SubNet:
        """The SubNet it was exported from."""
        return SubNet.load(self.file(self.subnet_file))

    @cached_property
    def plan(self) -> Quantisation | None:
        """By which its layers were quantised, or None."""
        if self.quantisation is None:
            return None
        return Quantisation.load(self.file(self.quantisation))

    @property
    def precision(self) -> str:
        """What the denoiser multiplies in: the scheme of its quantisation, or its dtype."""
        return self.dtype if self.plan is None else self.plan.scheme.name

    @property
    def models(self) -> tuple[str, ...]:
        """Files of all graphs of this variant."""
        prologue = () if self.prologue is None else (self.prologue,)
        encoder = () if self.encoder is None else (self.encoder,)
        return (self.conditioner, self.decoder, *self.graphs, *prologue, *encoder)

    @property
    def needed(self) -> frozenset[str]:
        """All files of this variant."""
        tokenizers = {each.tokenizer for each in self.prompt_inputs if each.length}
        layout = set() if self.layout is None else {self.layout}
        plan = set() if self.quantisation is None else {self.quantisation}
        return frozenset({self.subnet_file, WEIGHTS, *self.models, *tokenizers, *layout, *plan})

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the calls, each once: the rows of the prologue's outputs."""
        return distinct(call.timestep for call in self.calls)

    def file(self, name: str) -> Path:
        """Path of one of its files, once its content has been checked.

        Raises:
            ExportError: it is not listed, missing, or not what was exported.
        """
        if name not in self.files:
            msg = f"the bundle {str(self.path)!r} has no file {name!r}; export again"
            raise ExportError(msg)
        path = self.path / name
        if not path.is_file():
            msg = f"the bundle {str(self.path)!r} lacks its file {name!r}; export again"
            raise ExportError(msg)
        if path.is_symlink() and not _is_blob(path):
            msg = (
                f"the file {name!r} of the bundle {str(self.path)!r} is a link that leaves the "
                "blobs of its hub cache; replace it by the file itself"
            )
            raise ExportError(msg)
        found = sha256(path)
        if found != self.files[name]:
            msg = (
                f"{str(path)!r} is not the file that was exported: its SHA-256 is {found[:12]}..., "
                f"the manifest says {self.files[name][:12]}...; export again"
            )
            raise ExportError(msg)
        return path

    @property
    def takes_labels(self) -> bool:
        """Whether prompts are classes."""
        return any(each.fill is PromptField.LABEL for each in self.prompt_inputs)

    @property
    def takes_prompt(self) -> bool:
        """Whether it is told what to show."""
        return any(each.source == "prompt" for each in self.prompt_inputs)

    @property
    def takes_negative(self) -> bool:
        """Whether there is a negative prompt."""
        return any(each.source == "negative" for each in self.prompt_inputs)

    @property
    def pictures(self) -> frozenset[str]:
        """The pictures that a run needs in addition to its latents: `image`, `mask`, `ip-image`."""
        inputs = [each for each in self.prompt_inputs if each.fill is PromptField.PICTURE]
        return frozenset(each.source for each in inputs)

    @property
    def example_pictures(self) -> dict[str, Image]:
        """One for each of these."""
        size = self.shape.height, self.shape.width
        return {source: example_picture(*size, source) for source in self.pictures}

    @property
    def default_prompt(self) -> str:
        """A prompt or class that suits any bundle."""
        if not self.takes_prompt:
            return ""
        return next(iter(self.labels), "0") if self.takes_labels else "a photo of a red bicycle"

    def require_prompt(self, *, prompt: str | None, label: str | None) -> str:
        """The prompt or the label, whichever this bundle takes; nothing where it takes neither."""
        if not self.takes_prompt:
            if prompt or label is not None:
                msg = f"the bundle {str(self.path)!r} takes no prompt; leave it out"
                raise ExportError(msg)
            return ""
        wanted, given, other = (
            ("--label", label, prompt) if self.takes_labels else ("--prompt", prompt, label)
        )
        if given is None or other is not None:
            what, wrong = ("classes", "--prompt") if self.takes_labels else ("texts", "--label")
            instead = "" if other is None else f", without {wrong}"
            msg = f"the bundle {str(self.path)!r} takes {what}; give {wanted}{instead}"
            raise ExportError(msg)
        return given

    def find_pipeline(self, given: Path | None) -> Path:
        """The pipeline's directory: `given`, or where the bundle was exported from."""
        if given is None and not Path(self.pipeline).is_dir():
            msg = (
                f"the pipeline {self.pipeline!r}, from which {str(self.path)!r} was exported, is not "
                "here; say where it is with --pipeline"
            )
            raise ExportError(msg)
        return Path(self.pipeline) if given is None else given

    @property
    def added(self) -> tuple[Lora, ...]:
        """The LoRAs and the IP-Adapter."""
        adapters = () if self.ip_adapter is None else (self.ip_adapter,)
        return (*self.loras, *self.live_loras, *adapters)

    def with_loras(self, given: Sequence[Path]) -> Bundle:
        """The same bundle, which knows the places of the files of LoRAs and IP-Adapter that are `given`.

        Raises:
            SearchError: one of them is none that it was exported with.
        """
        fused, live = len(self.loras), len(self.live_loras)
        found: tuple[Any, ...] = placed(self.added, given)
        return replace(
            self,
            loras=found[:fused],
            live_loras=found[fused : fused + live],
            ip_adapter=next(iter(found[fused + live :]), None),
        )

    def check(self) -> None:
        """Check every file of this variant."""
        for name in sorted(self.needed):
            self.file(name)

    def variants(self) -> Iterator[Bundle]:
        """The bundle, opened at each of its variants in turn."""
        for each in self.shapes:
            yield Bundle.open(self.path, height=each.height, width=each.width, images=each.images)

    @staticmethod
    def open(
        path: Path,
        *,
        height: int | None = None,
        width: int | None = None,
        images: int | None = None,
    ) -> Bundle:
        """Read the manifest of a bundle, and choose its first variant that fits.

        Args:
            path: the bundle's directory.
            height: the height of the pictures in pixels; None: any.
            width: the width of the pictures in pixels; None: any.
            images: the number of images per prompt; None: any.

        Raises:
            ExportError: there is no manifest, it is damaged, or no variant fits.
        """
        try:
            data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{str(path)!r} is not a bundle ({error.strerror}: {MANIFEST}); give a directory written by stepcarve export"
            raise ExportError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"the manifest of {str(path)!r} is damaged ({error}); export again"
            raise ExportError(msg) from error
        return _bundle(path, data, {"height": height, "width": width, "images": images})


def _is_blob(link: Path) -> bool:
    """Whether a link in a snapshot of a hub's cache leads to the blobs of the same model."""
    for folder in link.absolute().parents:
        if folder.name == "snapshots":
            return link.resolve().parent == (folder.parent / "blobs").resolve()
    return False


def _require_readable(path: Path, data: Any) -> None:
    """Refuse the manifest of something else, or of a version that is not read."""
    if not isinstance(data, dict) or data.get("kind") != KIND:
        msg = f"{str(path)!r} is not a bundle; give a directory written by stepcarve export"
        raise ExportError(msg)
    if data.get("schema") not in READABLE:
        msg = (
            f"the bundle {str(path)!r} has schema {data.get('schema')!r}, but this stepcarve reads "
            f"{READABLE[0]} to {READABLE[-1]}; use the stepcarve that wrote it, or export again"
        )
        raise ExportError(msg)


def _require_inside(path: Path, files: Iterable[str]) -> None:
    """Refuse names of files that lead out of the bundle."""
    outside = sorted(name for name in files if name != Path(name).name or name == "..")
    if outside:
        msg = (
            f"the manifest of {str(path)!r} names {outside}, but all files of a bundle lie in its own "
            "directory; do not use this bundle"
        )
        raise ExportError(msg)


def _bundle(path: Path, data: Any, wanted: Mapping[str, int | None]) -> Bundle:
    """The bundle of a manifest, at its first variant that fits what is wanted."""
    _require_readable(path, data)
    try:
        _require_inside(path, data["files"])
        shapes = tuple(map(Shape.from_json, data["variants"]))
        if not shapes or len(set(shapes)) < len(shapes):
            msg = "the variants, of which there are none or two alike"
            raise ValueError(msg)
        number = find_shape(shapes, wanted, path)
        variant = data["variants"][number]
        return Bundle(
            path=path,
            dtype=data["dtype"],
            text_dtype=data.get("text_dtype", "float32"),
            vae_dtype=data.get("vae_dtype", "float32"),
            parts=dict(data.get("parts", {})),
            guided=data["guided"],
            scaled=bool(data.get("scaled", data["guided"])),
            guidance=float(data["guidance"]),
            prompt_inputs=tuple(map(_input, data["prompt_inputs"])),
            encoder_inputs=tuple(map(_input, data.get("encoder_inputs", ()))),
            labels=data["labels"],
            pipeline=data["pipeline"],
            loras=tuple(map(Lora.from_json, data.get("loras", ()))),
            live_loras=tuple(map(Lora.from_json, data.get("live_loras", ()))),
            ip_adapter=None
            if (made := data.get("ip_adapter")) is None
            else IPAdapter.from_json(made),
            quantisation=data.get("quantisation"),
            preview=_matrix(data.get("preview")),
            shapes=shapes,
            files=data["files"],
            shape=shapes[number],
            latent_shape=tuple(variant["latent_shape"]),
            noise_shape=tuple(variant["noise_shape"]),
            subnet_file=variant["subnet"],
            conditioner=variant["conditioner"],
            prologue=variant["prologue"],
            decoder=variant["decoder"],
            encoder=variant.get("encoder"),
            layout=variant["layout"],
            rows=tuple(variant["rows"]),
            graphs=tuple(variant["graphs"]),
            calls=tuple(BundleCall(**each) for each in variant["calls"]),
            slots=tuple(tuple(shape) for shape in variant["slots"]),
            sampler=SamplerTable.from_json(variant["sampler"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"the manifest of {str(path)!r} is wrong or incomplete at {error}; export again"
        raise ExportError(msg) from error


def _matrix(rows: Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    """Rows of numbers; None stays None."""
    return None if rows is None else tuple(tuple(map(float, row)) for row in rows)


def _input(data: dict[str, Any]) -> PromptInput:
    """An input of the conditioner or the encoder."""
    return PromptInput(
        **{
            **data,
            "fill": PromptField(data["fill"]),
            "cleanings": tuple(data.get("cleanings", ())),
            "spelled": tuple(data.get("spelled", ())),
            "dims": tuple(data.get("dims", ())),
            "drawn": Drawn(data.get("drawn", Drawn.BEFORE)),
            "quotation": _quotation(data.get("quotation")),
        }
    )


def _quotation(data: dict[str, Any] | None) -> Quotation | None:
    """How a text is made of quoted words."""
    return None if data is None else Quotation(**{**data, "marks": tuple(data["marks"])})
