"""The directory an export writes: manifest, checksums, atomic appearance, reading it back. No torch."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.errors import ExportError
from search.files import write_atomically
from search.prompt import Fill, PromptInput
from search.sampler import SamplerTable
from search.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SCHEMA = 4
KIND = "stepcarve-bundle"
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""What the system says when nothing more can be written; numpy gives no number for it."""
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of a bundle's denoiser -> bytes of a value."""


def require_dtype(name: str) -> None:
    """Refuse a dtype that is not one of `DTYPES`."""
    if name not in DTYPES:
        msg = f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}"
        raise ExportError(msg)


@dataclass(frozen=True)
class Shape:
    """What one variant of a bundle makes.

    Attributes:
        height: of the pictures, in pixels.
        width: likewise.
        images: per prompt.
    """

    height: int
    width: int
    images: int

    @property
    def tag(self) -> str:
        """For names of files."""
        return f"{self.height}x{self.width}x{self.images}"

    def __str__(self) -> str:
        images = "image" if self.images == 1 else "images"
        return f"{self.height} x {self.width} with {self.images} {images}"


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
    """

    step: int
    timestep: float
    graph: int
    reads: dict[str, int]
    writes: dict[str, int]
    prediction: int | None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, opened at one of its variants; files are checked when they are asked for.

    Variants make pictures of other shapes of the same SubNet, and share the weights file.

    Attributes:
        path: the directory.
        dtype: of the denoiser's weights and activations; what surrounds it is float32.
        guided: whether the graphs take a guidance scale.
        guidance: the scale to use when none is given.
        prompt_inputs: what the conditioner takes.
        labels: class name -> number; empty for texts.
        pipeline: directory of the pipeline it was exported from, as it was given.
        shapes: of all variants, the default first.
        files: file -> SHA-256, of all variants.
        shape: of this variant, as is everything below.
        latent_shape: `[B, C, H, W]`, or as the pipeline packs it.
        noise_shape: of the noise that a seed draws, `[B, C, H, W]`.
        subnet_file: the SubNet, bound to this size.
        conditioner: file of the graph from prompt inputs to conditions.
        prologue: file of the graph that computes loop invariants, or None.
        decoder: file of the graph from latents to pictures.
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
    guided: bool
    guidance: float
    prompt_inputs: tuple[PromptInput, ...]
    labels: dict[str, int]
    pipeline: str
    shapes: tuple[Shape, ...]
    files: dict[str, str]
    shape: Shape
    latent_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    subnet_file: str
    conditioner: str
    prologue: str | None
    decoder: str
    layout: str | None
    rows: tuple[str, ...]
    graphs: tuple[str, ...]
    calls: tuple[BundleCall, ...]
    slots: tuple[tuple[int, ...], ...]
    sampler: SamplerTable

    def __post_init__(self) -> None:
        """Check that every part refers to what is there; every problem is a `ValueError`."""
        if self.dtype not in DTYPES:
            msg = f"dtype {self.dtype!r}"
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

    @property
    def models(self) -> tuple[str, ...]:
        """Files of all graphs of this variant."""
        prologue = () if self.prologue is None else (self.prologue,)
        return (self.conditioner, self.decoder, *self.graphs, *prologue)

    @property
    def needed(self) -> frozenset[str]:
        """All files of this variant."""
        tokenizers = {each.tokenizer for each in self.prompt_inputs if each.length}
        layout = set() if self.layout is None else {self.layout}
        return frozenset({self.subnet_file, WEIGHTS, *self.models, *tokenizers, *layout})

    @cached_property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the calls, each once: the rows of the prologue's outputs."""
        return tuple(dict.fromkeys(call.timestep for call in self.calls))

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
        if path.is_symlink():
            msg = f"the file {name!r} of the bundle {str(self.path)!r} is a link; put the file itself there"
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
        return any(each.fill is Fill.LABEL for each in self.prompt_inputs)

    @property
    def takes_negative(self) -> bool:
        """Whether there is a negative prompt."""
        return any(each.source == "negative" for each in self.prompt_inputs)

    @property
    def default_prompt(self) -> str:
        """Something any such bundle can show."""
        return next(iter(self.labels), "0") if self.takes_labels else "a photo of a red bicycle"

    def require_prompt(self, *, prompt: str | None, label: str | None) -> str:
        """The prompt or the label, whichever this bundle takes."""
        wanted, given, other = (
            ("--label", label, prompt) if self.takes_labels else ("--prompt", prompt, label)
        )
        if given is None or other is not None:
            what = "classes" if self.takes_labels else "texts"
            msg = f"the bundle {str(self.path)!r} shows {what}; give {wanted} and nothing else"
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

    def check(self) -> None:
        """Check every file of this variant."""
        for name in sorted(self.needed):
            self.file(name)

    def variants(self) -> Iterator[Bundle]:
        """The bundle opened at each of its shapes."""
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
        """Read the manifest of a bundle, and take its first variant that fits.

        Args:
            path: the directory.
            height: of the pictures in pixels; None takes any.
            width: likewise.
            images: per prompt; None takes any number.

        Raises:
            ExportError: there is no manifest, it cannot be trusted, or no variant fits.
        """
        try:
            data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{str(path)!r} is not a bundle ({error.strerror}: {MANIFEST}); give a directory written by stepcarve export"
            raise ExportError(msg) from error
        except ValueError as error:
            msg = f"the manifest of {str(path)!r} is damaged ({error}); export again"
            raise ExportError(msg) from error
        return _bundle(path, data, Wanted(height, width, images))


class Wanted(NamedTuple):
    """A shape, in which None stands for anything."""

    height: int | None
    width: int | None
    images: int | None

    def find(self, shapes: Sequence[Shape], path: Path) -> int:
        """The first of `shapes`, those of the bundle at `path`, that fits."""
        for number, shape in enumerate(shapes):
            made = (shape.height, shape.width, shape.images)
            if all(want in (None, has) for want, has in zip(self, made, strict=True)):
                return number
        asked = ", ".join(f"{n} {v}" for n, v in self._asdict().items() if v is not None)
        msg = (
            f"the bundle {str(path)!r} has no variant for {asked}; it makes "
            f"{', '.join(map(str, shapes))}; take one of these, or export again with others"
        )
        raise ExportError(msg)


def _bundle(path: Path, data: Any, wanted: Wanted) -> Bundle:
    if not isinstance(data, dict) or data.get("kind") != KIND:
        msg = f"{str(path)!r} is not a bundle; give a directory written by stepcarve export"
        raise ExportError(msg)
    if data.get("schema") != SCHEMA:
        msg = (
            f"the bundle {str(path)!r} has schema {data.get('schema')!r}, but this stepcarve reads "
            f"{SCHEMA}; use the stepcarve that wrote it, or export again"
        )
        raise ExportError(msg)
    try:
        outside = sorted(n for n in data["files"] if n != Path(n).name or n == "..")
        if outside:
            msg = (
                f"the manifest of {str(path)!r} names {outside}, but all files of a bundle lie in "
                "its own directory; do not use this bundle"
            )
            raise ExportError(msg)
        shapes = tuple(
            Shape(int(v["height"]), int(v["width"]), int(v["images"])) for v in data["variants"]
        )
        if not shapes:
            msg = "the variants, of which there are none"
            raise ValueError(msg)
        number = wanted.find(shapes, path)
        variant = data["variants"][number]
        return Bundle(
            path=path,
            dtype=data["dtype"],
            guided=data["guided"],
            guidance=float(data["guidance"]),
            prompt_inputs=tuple(
                PromptInput(**{**each, "fill": Fill(each["fill"])})
                for each in data["prompt_inputs"]
            ),
            labels=data["labels"],
            pipeline=data["pipeline"],
            shapes=shapes,
            files=data["files"],
            shape=shapes[number],
            latent_shape=tuple(variant["latent_shape"]),
            noise_shape=tuple(variant["noise_shape"]),
            subnet_file=variant["subnet"],
            conditioner=variant["conditioner"],
            prologue=variant["prologue"],
            decoder=variant["decoder"],
            layout=variant["layout"],
            rows=tuple(variant["rows"]),
            graphs=tuple(variant["graphs"]),
            calls=tuple(BundleCall(**each) for each in variant["calls"]),
            slots=tuple(tuple(shape) for shape in variant["slots"]),
            sampler=SamplerTable.from_json(variant["sampler"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"the manifest of {str(path)!r} lacks or garbles {error}; export again"
        raise ExportError(msg) from error


class Staging:
    """A bundle in the making: a hidden sibling directory that is renamed once it is complete.

    Files that an earlier, killed export of the same inputs has finished are kept.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target
        self._record = folder / "finished.json"
        self._finished: dict[str, Any] = {}

    def make(self, name: str, write: Callable[[Path], Any]) -> Any:
        """Write file `name` by `write(path)` unless it is there already; returns what it returned.

        The result must be JSON; it is remembered with the file. A full disk is an `ExportError`.
        """
        path = self.folder / name
        done = self._finished.get(name)
        if done is not None and path.is_file() and sha256(path) == done["sha256"]:
            return done["result"]
        with self._needing_room():
            result = write(path)
            path.chmod(0o644)
            _flush(path)
            self._finished[name] = {"sha256": sha256(path), "result": result}
            self._remember()
        return result

    def share(self, name: str, write: Callable[[Path], Any]) -> str:
        """Write file `name`, but keep it only if none with that content is there.

        Returns:
            The name of the file with that content.
        """
        self.make(name, write)
        digest = self._finished[name]["sha256"]
        first = next(each for each, done in self._finished.items() if done["sha256"] == digest)
        if first != name:
            (self.folder / name).unlink()
            del self._finished[name]
            self._remember()
        return first

    @contextmanager
    def _needing_room(self) -> Iterator[None]:
        """Say in one sentence that nothing more can be written."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            msg = (
                f"there is no room left for {str(self._target)!r} ({error.strerror or error}), and "
                "nothing of it was kept; free some, or choose another place"
            )
            raise ExportError(msg) from error

    def _remember(self) -> None:
        write_atomically(self._record, json.dumps(self._finished))

    def commit(self, manifest: dict[str, Any]) -> None:
        """Write the manifest with all checksums and make the bundle appear."""
        files = {name: done["sha256"] for name, done in sorted(self._finished.items())}
        text = json.dumps({"schema": SCHEMA, "kind": KIND, **manifest, "files": files}, indent=1)
        with self._needing_room():
            write_atomically(self.folder / MANIFEST, text + "\n")
        keep = {MANIFEST, *files}
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()
        _flush(self.folder)
        self.folder.rename(self._target)
        _flush(self._target.parent)

    def resume(self, key: str) -> None:
        """Keep what an export with the same `key` has left; remove anything else."""
        marker = self.folder / "key"
        if marker.is_file() and marker.read_text() == key:
            if self._record.is_file():
                self._finished = json.loads(self._record.read_text())
            return
        for path in self.folder.iterdir():
            path.unlink()
        write_atomically(marker, key)


@contextmanager
def staging(target: Path, key: str) -> Iterator[Staging]:
    """Stage a bundle for `target`; `key` names everything that decides its content.

    Raises:
        ExportError: `target` exists, another export to it is running, or the disk is full.
    """
    if target.exists():
        msg = f"{str(target)!r} exists; remove it or choose another name"
        raise ExportError(msg)
    target = target.absolute()
    folder = target.parent / f".{target.name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            msg = (
                f"another export to {str(target)!r} is running; wait for it or choose another name"
            )
            raise ExportError(msg) from error
        stage = Staging(folder, target)
        stage.resume(key)
        try:
            yield stage
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
