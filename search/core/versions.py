"""Which versions of packages are installed."""

from __future__ import annotations

import platform
import re
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


def environment(packages: Iterable[str]) -> dict[str, str]:
    """System, Python and these packages, for the record of what is made here."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions_of(packages),
    }


def extra_of(module: str) -> str:
    """The first extra of stepcarve that brings a module; empty if none does or its metadata is not here."""
    try:
        requirements = metadata.requires("stepcarve") or []
    except metadata.PackageNotFoundError:
        return ""
    package = module.partition(".")[0].replace("_", "-")
    for each in requirements:
        name, extra = re.match(r"[\w.-]+", each), re.search(r"""extra == ['"](.+?)['"]""", each)
        if name and extra and name[0].replace("_", "-").lower() == package.lower():
            return extra[1]
    return ""
