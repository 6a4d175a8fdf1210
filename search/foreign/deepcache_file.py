"""The parameters of the DeepCache package, as a JSON object.

The package saves none. The object has the names of `set_params`, or those under which its helper keeps
them in `params`, where a layer and a block stand for the branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.errors import SearchError
from search.core.files import read_settings

if TYPE_CHECKING:
    from pathlib import Path

LAYER, BLOCK = "cache_layer_id", "cache_block_id"
LAYERS = 3
"""Of a block, as the package counts branches."""
MODES = ("uniform",)
"""The package names others, but only this one skips what it says."""


@dataclass(frozen=True)
class DeepCacheParameters:
    """What `set_params` takes; the defaults are the package's.

    Attributes:
        cache_interval: of full steps.
        cache_branch_id: the cached layer, from the outermost.
        skip_mode: how full steps are spread.
    """

    cache_interval: int = 1
    cache_branch_id: int = 0
    skip_mode: str = MODES[0]

    def __post_init__(self) -> None:
        """Refuse what the package does not do."""
        if self.skip_mode not in MODES:
            msg = f"the skip_mode is {self.skip_mode!r}; only {', '.join(MODES)} can be imported"
            raise SearchError(msg)


def read_deepcache(path: Path) -> DeepCacheParameters:
    """Read a JSON object of the package's parameters.

    Raises:
        SearchError: it is no such object, or has other keys or types.
    """
    settings = read_settings(path)
    settings.require_known(("cache_interval", "cache_branch_id", LAYER, BLOCK, "skip_mode"))
    branch = settings.number("cache_branch_id", 0)
    if LAYER in settings.content or BLOCK in settings.content:
        layer, block = settings.number(LAYER, 0), settings.number(BLOCK, 0)
        if layer >= LAYERS or "cache_branch_id" in settings.content:
            msg = (
                f"{str(path)!r} has {sorted(settings.content)} with {LAYER} {layer}; give either "
                f"cache_branch_id, or {BLOCK} and a {LAYER} below {LAYERS}"
            )
            raise SearchError(msg)
        branch = LAYERS * block + layer
    return DeepCacheParameters(
        cache_interval=settings.number("cache_interval", 1, least=1),
        cache_branch_id=branch,
        skip_mode=settings.word("skip_mode", MODES[0]),
    )
