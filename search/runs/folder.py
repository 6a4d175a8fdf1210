"""Run directories of searches, from which a stopped search continues."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import parse_json, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def claim(file: Path, identity: Mapping[str, object], *, results: str, resume: bool) -> None:
    """Begin the search of `identity` (JSON values), which `file` will tell, or go on with the same.

    Raises:
        SearchError: there is a search already and `resume` is not set, it is another one, or
            files of the pattern `results` are there without `file`.
    """
    folder = str(file.parent)
    if not file.is_file():
        orphan = next(file.parent.glob(results), None)
        if orphan is not None:
            msg = f"{folder!r} has {orphan.name} of an unknown search; give another directory"
            raise SearchError(msg)
        write_atomically(file, json.dumps(identity, indent=1) + "\n")
        return
    if not resume:
        msg = (
            f"{folder!r} holds a search already; give --resume to continue it, or another directory"
        )
        raise SearchError(msg)
    other = differing(identity, parse_json(file.read_bytes(), str(file)))
    if other:
        msg = (
            f"{folder!r} holds a search that differs in {', '.join(other)}; give another directory, or "
            "the same options"
        )
        raise SearchError(msg)


def differing(mine: Mapping[str, object], theirs: object) -> list[str]:
    """The keys under which what was read from JSON is not what would be written."""
    ours, found = json.loads(json.dumps(mine)), theirs if isinstance(theirs, dict) else {}
    return sorted(key for key in ours | found if ours.get(key) != found.get(key))


def whole_lines(file: Path) -> list[bytes]:
    """The lines of a log, with their ends, if there is one; a last line that was cut off is not one."""
    content = file.read_bytes() if file.is_file() else b""
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
