"""The blocks that a SubNet removes. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.blocks import skipped
from search.core.errors import SearchError

if TYPE_CHECKING:
    from search.core.subnet import SubNet


def skipped_blocks(subnet: SubNet) -> list[str]:
    """The blocks that a SubNet skips at every step, if it does nothing else.

    Raises:
        SearchError: there are none, or the SubNet does anything else than skip and run.
    """
    names = subnet.topology.blocks
    columns = [{row[block] for row in subnet.actions} for block in range(len(names))]
    mixed = [name for name, column in zip(names, columns, strict=True) if len(column) > 1]
    other = set().union(*columns) - {Action.RUN, Action.SKIP}
    if mixed or other:
        what = f"has {', '.join(sorted(other))}" if other else f"changes {mixed[:3]} between steps"
        msg = (
            f"the SubNet {what}, but only blocks that every step skips can be removed for good; "
            "give one of --method laptop, bk-sdm, ssd-1b, vega or every-second"
        )
        raise SearchError(msg)
    found = skipped(subnet)
    if not found:
        msg = "the SubNet skips no block, so no layer can be removed; give one of --method laptop or bk-sdm"
        raise SearchError(msg)
    return found
