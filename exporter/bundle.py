"""The directory an export writes: manifest, checksums, atomic appearance, reading it back. No torch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExportError
from search.files import write_atomically
from search.prompt import Fill, PromptInput
from search.sampler import SamplerTable
from search.subnet import SubNet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA = 3
READABLE = (2, 3)
"""Schema 2 knew one noise only, the initial one."""
KIND = "stepcarve-bundle"
MANIFEST = "manifest.json"
SUBNET = "subnet.json"
WEIGHTS = "weights.bin"
CONDITIONER = "condition.onnx"
PROLOGUE = "prologue.onnx"
DECODER = "decode.onnx"
LAYOUT = "layout.npy"
"""Per element of the latents, which element of the drawn noise it is; only where that is another."""
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of a bundle's denoiser -> bytes of a value."""


def require_dtype(name: str) -> None:
    """Refuse a dtype that is not one of `DTYPES`."""
    if name not in DTYPES:
        msg = f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}"
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
    """

    step: int
    timestep: float
    graph: int
    reads: dict[str, int]
    writes: dict[str, int]
    prediction: int | None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; its files are checked when they are asked for.

    Attributes:
        path: the directory.
        dtype: of the denoiser's weights and activations; what surrounds it is float32.
        latent_shape: `[B, C, H, W]`, or as the pipeline packs it.
        noise_shape: of the noise that a seed draws, `[B, C, H, W]`.
        guided: whether the graphs take a guidance scale.
        guidance: the scale to use when none is given.
        prompt_inputs: what the conditioner takes.
        labels: class name -> number; empty for texts.
        rows: outputs of the prologue that have one row per timestep.
        graphs: file of each step graph.
        calls: in order.
        slots: shape of each cache buffer.
        sampler: one row per call, one column per value that is known and per noise prediction.
        pipeline: directory of the pipeline it was exported from, as it was given.
        files: file -> SHA-256.
    """

    path: Path
    dtype: str
    latent_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    guided: bool
    guidance: float
    prompt_inputs: tuple[PromptInput, ...]
    labels: dict[str, int]
    rows: tuple[str, ...]
    graphs: tuple[str, ...]
    calls: tuple[BundleCall, ...]
    slots: tuple[tuple[int, ...], ...]
    sampler: SamplerTable
    pipeline: str
    files: dict[str, str]

    def __post_init__(self) -> None:
        """Check that every part refers to what is there; every problem is a `ValueError`."""
        if self.dtype not in DTYPES:
            msg = f"dtype {self.dtype!r}"
            raise ValueError(msg)
        tokenizers = {each.tokenizer for each in self.prompt_inputs if each.length}
        needed = {SUBNET, WEIGHTS, CONDITIONER, DECODER, *self.graphs, *tokenizers}
        needed |= {PROLOGUE} if self.rows else set()
        unlisted = sorted(needed - set(self.files))
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
        return SubNet.load(self.file(SUBNET))

    @property
    def has_prologue(self) -> bool:
        """Whether there is a graph that computes loop invariants."""
        return PROLOGUE in self.files

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
        """Check every file."""
        for name in self.files:
            self.file(name)

    @staticmethod
    def open(path: Path) -> Bundle:
        """Read the manifest of a bundle.

        Raises:
            ExportError: there is none, or it cannot be trusted.
        """
        try:
            data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{str(path)!r} is not a bundle ({error.strerror}: {MANIFEST}); give a directory written by stepcarve export"
            raise ExportError(msg) from error
        except ValueError as error:
            msg = f"the manifest of {str(path)!r} is damaged ({error}); export again"
            raise ExportError(msg) from error
        return _bundle(path, data)


def _bundle(path: Path, data: Any) -> Bundle:
    if not isinstance(data, dict) or data.get("kind") != KIND:
        msg = f"{str(path)!r} is not a bundle; give a directory written by stepcarve export"
        raise ExportError(msg)
    if data.get("schema") not in READABLE:
        msg = (
            f"the bundle {str(path)!r} has schema {data.get('schema')!r}, but this stepcarve reads "
            f"{READABLE[0]} to {READABLE[-1]}; use the stepcarve that wrote it, or export again"
        )
        raise ExportError(msg)
    try:
        outside = sorted(
            n for n in [*data["files"], *data["graphs"]] if n != Path(n).name or n == ".."
        )
        if outside:
            msg = (
                f"the manifest of {str(path)!r} names {outside}, but all files of a bundle lie in "
                "its own directory; do not use this bundle"
            )
            raise ExportError(msg)
        return Bundle(
            path=path,
            dtype=data["dtype"],
            latent_shape=tuple(data["latent_shape"]),
            guided=data["guided"],
            guidance=float(data["guidance"]),
            noise_shape=tuple(data["noise_shape"]),
            prompt_inputs=tuple(
                PromptInput(**{**each, "fill": Fill(each["fill"])})
                for each in data["prompt_inputs"]
            ),
            labels=data["labels"],
            rows=tuple(data["rows"]),
            graphs=tuple(data["graphs"]),
            calls=tuple(BundleCall(**each) for each in data["calls"]),
            slots=tuple(tuple(shape) for shape in data["slots"]),
            sampler=SamplerTable.from_json(data["sampler"]),
            pipeline=data["pipeline"],
            files=data["files"],
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

        The result must be JSON; it is remembered with the file.
        """
        path = self.folder / name
        done = self._finished.get(name)
        if done is not None and path.is_file() and sha256(path) == done["sha256"]:
            return done["result"]
        result = write(path)
        path.chmod(0o644)
        _flush(path)
        self._finished[name] = {"sha256": sha256(path), "result": result}
        write_atomically(self._record, json.dumps(self._finished))
        return result

    def commit(self, manifest: dict[str, Any]) -> None:
        """Write the manifest with all checksums and make the bundle appear."""
        files = {name: done["sha256"] for name, done in sorted(self._finished.items())}
        text = json.dumps({"schema": SCHEMA, "kind": KIND, **manifest, "files": files}, indent=1)
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
        ExportError: `target` exists, or another export to it is running.
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
