"""Writing a bundle: beside its place, resumable after a kill, renamed when it is whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from exporter.bundle import KIND, MANIFEST, SCHEMA
from exporter.errors import ExportError
from search.core.files import flush, move_into_place, require_free, sha256, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""Errors of a full disk; numpy raises one without an errno."""


@contextmanager
def needing_room(target: Path) -> Iterator[None]:
    """Turn an error of a full disk while writing `target` into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        msg = (
            f"there is no space left for {str(target)!r} ({error.strerror or error}), and "
            "the unfinished bundle was removed; free some space, or choose another place"
        )
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
        with needing_room(self._target):
            result = write(path)
            path.chmod(0o644)
            flush(path)
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

    def _remember(self) -> None:
        write_atomically(self._record, json.dumps(self._finished))

    def commit(self, manifest: dict[str, Any]) -> None:
        """Write the manifest with all checksums and make the bundle appear."""
        files = {name: done["sha256"] for name, done in sorted(self._finished.items())}
        text = json.dumps({"schema": SCHEMA, "kind": KIND, **manifest, "files": files}, indent=1)
        keep = {MANIFEST, *files}
        with needing_room(self._target):
            write_atomically(self.folder / MANIFEST, text + "\n")
            for path in self.folder.iterdir():
                if path.name not in keep:
                    path.unlink()
            move_into_place(self.folder, self._target)

    def resume(self, key: str) -> None:
        """Keep what an export with the same `key` has left; remove anything else."""
        marker = self.folder / "key"
        if marker.is_file() and marker.read_text() == key:
            if self._record.is_file():
                self._finished = json.loads(self._record.read_text())
            return
        for path in self.folder.iterdir():
            path.unlink()
        with needing_room(self._target):
            write_atomically(marker, key)


@contextmanager
def staging(target: Path, key: str) -> Iterator[Staging]:
    """Stage a bundle for `target`; `key` names everything that decides its content.

    Raises:
        SearchError: `target` exists.
        ExportError: another export to it is running, or the disk is full.
    """
    require_free(target)
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
        try:
            stage.resume(key)
            yield stage
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)
