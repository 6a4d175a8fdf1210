"""Which versions of packages are installed."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def installed(module: str) -> dict[str, str]:
    """Version of each distribution that provides `module`."""
    names = metadata.packages_distributions().get(module, [])
    return {name: metadata.version(name) for name in sorted(set(names))}


def version_of(package: str) -> str:
    """The installed version; empty if there is none: stepcarve itself may run uninstalled."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    return {name: version for name in packages if (version := version_of(name))}
