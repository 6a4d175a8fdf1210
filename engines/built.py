"""Built files of a bundle: their place, their inputs, and whether they are stale.

A built file is named after its content, and its record names it. The record is renamed into place last:
that alone makes a build count, so a reader sees an earlier build or this one, whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import EngineError
from exporter.bundle import WEIGHTS
from search.core.files import sha256, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engines.base import Engine, Session
    from exporter.bundle import Bundle

SCHEMA = 2
KIND = "stepcarve-built"
FOLDER = "built"
"""Of a bundle."""


@dataclass(frozen=True)
class BuildInputs:
    """What a built file is made from.

    Attributes:
        graph: SHA-256 of the graph's file.
        weights: likewise of the weights file.
        key: of the engine.
    """

    graph: str
    weights: str
    key: Mapping[str, str]

    def differences(self, other: BuildInputs) -> str:
        """The fields in which `other` differs, as a text; empty if there are none."""
        pairs = [("graph", self.graph[:12], other.graph[:12])]
        pairs.append(("weights", self.weights[:12], other.weights[:12]))
        names = sorted({*self.key, *other.key})
        pairs += [(name, self.key.get(name, ""), other.key.get(name, "")) for name in names]
        return ", ".join(
            f"{n} {theirs!r} (here {ours!r})" for n, ours, theirs in pairs if ours != theirs
        )


@dataclass(frozen=True)
class Record:
    """The record of a built file, stored beside it.

    Attributes:
        source: what it was made from.
        file: its name.
        built: its SHA-256.
        bytes: its size.
        seconds: that building took.
    """

    source: BuildInputs
    file: str
    built: str
    bytes: int
    seconds: float

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {"kind": KIND, "schema": SCHEMA, **asdict(self)}
        write_atomically(path, json.dumps(content, indent=1) + "\n")


def read_record(path: Path) -> Record | None:
    """A record, or None if it is missing or unreadable; the file then counts as not built."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["kind"], content["schema"]) != (KIND, SCHEMA):
            return None
        given = content["source"]
        source = BuildInputs(str(given["graph"]), str(given["weights"]), dict(given["key"]))
        file = str(content["file"])
        if file != Path(file).name:
            return None
        built, size, seconds = content["built"], content["bytes"], content["seconds"]
        return Record(source, file, str(built), int(size), float(seconds))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def source_of(bundle: Bundle, engine: Engine, graph: str) -> BuildInputs:
    """What a file built from `graph`, one of the bundle's files, is made from."""
    return BuildInputs(bundle.files[graph], bundle.files[WEIGHTS], engine.key())


def record_of(bundle: Bundle, engine: Engine, graph: str) -> Path:
    """The record of what `engine` builds from `graph`, in the folder of all that it builds."""
    digest = hashlib.sha256(json.dumps(engine.key(), sort_keys=True).encode()).hexdigest()
    folder = bundle.path / FOLDER / f"{engine.name}-{digest[:16]}"
    return folder / f"{graph.removesuffix('.onnx')}.json"


def earlier_records(bundle: Bundle, engine: str, graph: str) -> Iterator[Record]:
    """All records of what was built from `graph` with the engine of that name, whatever their keys."""
    name = graph.removesuffix(".onnx") + ".json"
    for path in sorted((bundle.path / FOLDER).glob(f"{engine}-*/{name}")):
        record = read_record(path)
        if record is not None:
            yield record


def is_built(bundle: Bundle, engine: Engine, graph: str) -> bool:
    """Whether there is a file that was built from `graph` and can be used."""
    path = record_of(bundle, engine, graph)
    record = read_record(path)
    return record is not None and not flaw(path, record, source_of(bundle, engine, graph))


def flaw(record_path: Path, record: Record, source: BuildInputs) -> str:
    """Why the file of `record` cannot be used for `source`, in words; empty if it can."""
    place = record_path.with_name(record.file)
    if not place.is_file():
        return "it is not there"
    if different := source.differences(record.source):
        return f"it was built for {different}"
    size = place.stat().st_size
    if size != record.bytes:
        return f"it has {size} bytes, but {record.bytes} were written"
    found = sha256(place)
    if found != record.built:
        return f"its SHA-256 is {found[:12]}..., but its record says {record.built[:12]}..."
    return ""


def built_file(bundle: Bundle, engine: Engine, graph: str) -> Path | None:
    """The file that `engine` built from `graph`, or None if it built none.

    Raises:
        EngineError: there is one, but not of this graph, these weights and this engine, or damaged.
    """
    if engine.suffix is None:
        return None
    path = record_of(bundle, engine, graph)
    record = read_record(path)
    if record is None:
        return None
    place = path.with_name(record.file)
    if why := flaw(path, record, source_of(bundle, engine, graph)):
        msg = f"{str(place)!r} cannot be used: {why}; {_advice(engine)}"
        raise EngineError(msg)
    return place


def load_graph(bundle: Bundle, engine: Engine, graph: str) -> Session:
    """Load one of the bundle's graphs, from what was built of it if that is there.

    Raises:
        EngineError: it cannot be loaded; what an earlier build was for is named.
    """
    built = built_file(bundle, engine, graph)
    try:
        return engine.load(bundle.path / graph, built)
    except EngineError as error:
        others = list(earlier_records(bundle, engine.name, graph)) if engine.suffix else []
        if built is not None or not others:
            raise
        different = source_of(bundle, engine, graph).differences(others[-1].source)
        msg = f"{graph} was built for {different}; {_advice(engine)}"
        raise EngineError(msg) from error


def _advice(engine: Engine) -> str:
    return f"run stepcarve build --engine {engine.name} here"
