"""The blocks that caches for transformers work on: attentions and feed-forwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.core.errors import SearchError

if TYPE_CHECKING:
    from search.core.subnet import SubNet
    from search.frontier.series import Series


def branches(layers: SubNet, series: Series) -> frozenset[int]:
    """The blocks whose output is added to a stream, so that leaving them out would add zeros.

    Raises:
        SearchError: there are none.
    """
    topology = layers.topology
    found = frozenset(
        block
        for block in topology.based
        if all(topology.bases[port].is_zeros for port in topology.ports_of[block])
    )
    if not found:
        msg = (
            f"{series.label} caches what attentions and feed-forwards add, and no layer of this "
            f"{layers.binding.denoiser} is one; leave {series} out"
        )
        raise SearchError(msg)
    return found
