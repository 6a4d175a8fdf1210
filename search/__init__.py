"""The search side: decides which blocks of a pipeline's denoiser run at which step.

`__all__` lists the public names (docs/python.md); each is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from search.core.lazy import lazily

if TYPE_CHECKING:
    from search.applied import Applied, apply
    from search.core.errors import SearchError
    from search.core.subnet import SubNet
    from search.face import load_subnet, optimize, progress

__all__ = ["Applied", "SearchError", "SubNet", "apply", "load_subnet", "optimize", "progress"]

__getattr__ = lazily(
    __name__,
    {
        "Applied": "search.applied",
        "SearchError": "search.core.errors",
        "SubNet": "search.core.subnet",
        "apply": "search.applied",
        "load_subnet": "search.face",
        "optimize": "search.face",
        "progress": "search.face",
    },
)
