"""The command line in tests: call it, and require that it refuses something."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result

from cli import main


def stepcarve(*arguments: object) -> Result:
    """Whatever becomes of a command."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ok(*arguments: object) -> str:
    """What a command prints that works."""
    result = stepcarve(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@dataclass(frozen=True)
class Places:
    """What a line may name in braces, and the folder in which nothing may be written."""

    folder: Path
    named: dict[str, Path]


def require_refused(line: str, message: str, places: Places) -> None:
    """A line of a command with a bad value is one sentence and exit code 2, and nothing is written."""
    before = sorted(places.folder.rglob("*"))
    result = stepcarve(*(word.format(**places.named) for word in line.split()))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(places.folder.rglob("*")) == before
