"""Public names of a package that load the module they are in when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562).

    Args:
        package: its name.
        homes: public name -> module that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            msg = f"module {package!r} has no attribute {name!r}; it offers {', '.join(sorted(homes))}"
            raise AttributeError(msg)
        return getattr(importlib.import_module(homes[name]), name)

    return get
