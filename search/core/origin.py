"""The search that made a SubNet, as a record. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The search that a SubNet came from, so that it can be repeated.

    Attributes:
        method: name of the method.
        keep: fraction of the full cost that was requested; None if the method takes none.
        seed: of its random choices; None if it makes none.
        options: the other options of the method, by their names on the command line.
        version: of stepcarve; empty where it was not installed.
        environment: system, Python and packages; empty in files of older versions.
    """

    method: str
    keep: float | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    version: str = ""
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(vars(self))

    @staticmethod
    def from_json(data: dict[str, Any]) -> Origin:
        """Read what `to_json` wrote."""
        keep, seed = data.get("keep"), data.get("seed")
        return Origin(
            method=str(data["method"]),
            keep=None if keep is None else float(keep),
            seed=None if seed is None else int(seed),
            options=dict(data.get("options", {})),
            version=str(data.get("version", "")),
            environment=dict(data.get("environment", {})),
        )
