"""The run side: builds, runs, verifies and measures bundles.

`__all__` lists the public names (docs/python.md); each is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from search.core.lazy import lazily

if TYPE_CHECKING:
    from engines.base import EngineOptions
    from engines.errors import EngineError, NotFiniteError
    from engines.face import load
    from engines.runner import Result, Runner

__all__ = ["EngineError", "EngineOptions", "NotFiniteError", "Result", "Runner", "load"]

__getattr__ = lazily(
    __name__,
    {
        "EngineError": "engines.errors",
        "EngineOptions": "engines.base",
        "NotFiniteError": "engines.errors",
        "Result": "engines.runner",
        "Runner": "engines.runner",
        "load": "engines.face",
    },
)
