"""Writing files and directories atomically, and reading settings that others wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.core.errors import SearchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SIZE_LIMIT = 2**20
"""Bytes of a file of settings."""


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write `content` to a temporary sibling, flush it to disk and rename it to `path`."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def require_free(target: Path) -> None:
    """Refuse a path that exists."""
    if target.exists():
        msg = f"{str(target)!r} exists; remove it or choose another name"
        raise SearchError(msg)


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A hidden sibling, renamed to `target` once it is complete and on disk.

    Raises:
        SearchError: `target` exists.
    """
    require_free(target)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        for path in folder.rglob("*"):
            flush(path)
        folder.chmod(0o755)
        move_into_place(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def move_into_place(folder: Path, target: Path) -> None:
    """Rename a sibling directory, whose files are on disk, atomically."""
    flush(folder)
    folder.rename(target)
    flush(target.parent)


def flush(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class SettingsFile:
    """A JSON object whose values are read with a checked type.

    Attributes:
        content: the object.
        source: names the file in errors.
    """

    content: Mapping[str, Any]
    source: str

    def require_known(self, names: Sequence[str]) -> None:
        """Refuse keys other than `names`."""
        unknown = sorted(set(self.content) - set(names))
        if unknown:
            msg = f"{self.source!r} has {unknown}; use {', '.join(names)}"
            raise SearchError(msg)

    def number(self, name: str, default: int, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        return self._number(name, self.content.get(name, default), least)

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers of at least 0."""
        found = self.content[name]
        if not isinstance(found, list):
            msg = f"{self.source!r} has {name} {found!r}; give a list of whole numbers"
            raise SearchError(msg)
        return [self._number(name, each, 0) for each in found]

    def word(self, name: str, default: str) -> str:
        """A text."""
        return str(self.content.get(name, default))

    def _number(self, name: str, found: object, least: int) -> int:
        if (
            isinstance(found, bool)
            or not isinstance(found, int)
            or not least <= found <= SIZE_LIMIT
        ):
            msg = f"{self.source!r} has {name} {found!r}; give a whole number from {least} on"
            raise SearchError(msg)
        return found


def read_settings(path: Path) -> SettingsFile:
    """Read a JSON object.

    Raises:
        SearchError: the file holds anything else.
    """
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict):
        msg = f"{str(path)!r} holds a {type(content).__name__}; give a JSON object"
        raise SearchError(msg)
    return SettingsFile(content, str(path))


def parse_json(text: str | bytes, source: str) -> Any:
    """The content of a JSON text; a `SearchError` if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{source!r} is not JSON ({type(error).__name__}); give a JSON file"
        raise SearchError(msg) from error


def require_small(path: Path, limit: int, what: str, advice: str) -> None:
    """Refuse a file of more than `limit` bytes, which cannot be `what` it should be."""
    size = path.stat().st_size
    if size > limit:
        msg = f"{str(path)!r} has {size} bytes, but {what} at most {limit}; {advice}"
        raise SearchError(msg)


def read_text(path: Path) -> str:
    """The text of a small file; a `SearchError` if it is large or not UTF-8."""
    require_small(path, SIZE_LIMIT, "settings have", "give another")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        msg = f"{str(path)!r} is not UTF-8 text; give a text file"
        raise SearchError(msg) from error


def require_pipeline(path: Path) -> Path:
    """The index of a diffusers pipeline directory, or a SearchError that names what is there instead."""
    index = path / "model_index.json"
    if not index.is_file():
        raise SearchError(_no_pipeline(path))
    return index


def _no_pipeline(path: Path) -> str:
    """What is at `path` instead of a pipeline, and what to do."""
    for scheme in ("https:/", "http:/"):
        if str(path).startswith(scheme):  # a path has no two slashes in a row
            address = scheme + "/" + str(path).removeprefix(scheme).lstrip("/")
            return (
                f"{address!r} is an address; download the pipeline, as with `hf download`, and give its "
                "directory"
            )
    if path.is_file():
        return (
            f"{str(path)!r} is a file; open it with diffusers' from_single_file, as stepcarve convert FILE "
            "--config DIR -o PIPELINE does, and give that directory"
        )
    if not path.is_dir():
        return (
            f"there is no directory {str(path)!r}; give a diffusers pipeline directory "
            "(models of a hub have to be downloaded first)"
        )
    if (path / "modular_model_index.json").is_file():
        return (
            f"{str(path)!r} is a modular pipeline of diffusers (modular_model_index.json), a kind that "
            "stepcarve does not read; give one with a model_index.json"
        )
    inside = sorted(each.parent for each in path.glob("snapshots/*/model_index.json"))
    if inside:
        return f"{str(path)!r} is a hub's cache; give the snapshot in it, {str(inside[-1])!r}"
    return (
        f"{str(path)!r} has no model_index.json, so it is not a diffusers pipeline; "
        "give a directory written by save_pretrained"
    )


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
