"""Which versions of packages are installed."""

from __future__ import annotations

from importlib import metadata


def installed(module: str) -> dict[str, str]:
    """Version of each distribution that provides `module`."""
    names = metadata.packages_distributions().get(module, [])
    return {name: metadata.version(name) for name in sorted(set(names))}


def version_of(package: str) -> str:
    """That is installed; empty where it is not, as stepcarve itself need not be to run."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
