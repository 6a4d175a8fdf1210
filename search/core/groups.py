"""Groups of steps that do the same, and names of the calls that they make. Pure.

A pipeline may switch to another network, leave guidance out, or change its scale on part of its steps.
Steps that do the same are a group. A call that two groups make alike, of the same network on the same
things, is one stream, so its blocks are the same blocks in both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from search.core.errors import SearchError
from search.core.streams import STREAMS, block_name, stream_names

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Groups:
    """Which steps do the same.

    Attributes:
        of_steps: per step, its group.
        calls: per group, the streams of the calls that its steps make, in order.
        networks: per stream, the part of the pipeline that is called.
    """

    of_steps: tuple[int, ...]
    calls: tuple[tuple[str, ...], ...]
    networks: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        """Check that they fit together; what does not is a `ValueError`."""
        if not set(self.of_steps) <= set(range(len(self.calls))):
            msg = "the groups of steps, in which a step has none"
            raise ValueError(msg)
        if {name for group in self.calls for name in group} != set(self.streams):
            msg = "the groups of steps, in which a call has no network"
            raise ValueError(msg)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of all calls."""
        return tuple(name for name, _ in self.networks)

    def network(self, stream: str) -> str:
        """The part of the pipeline that is called in a stream."""
        return dict(self.networks)[stream]

    def first_step(self, group: int) -> int:
        """The first step of a group."""
        return self.of_steps.index(group)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; see docs/formats.md."""
        return {
            "of_steps": list(self.of_steps),
            "calls": [list(names) for names in self.calls],
            "networks": [list(pair) for pair in self.networks],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Groups:
        """Read what `to_json` wrote."""
        return Groups(
            tuple(data["of_steps"]),
            tuple(map(tuple, data["calls"])),
            tuple((str(stream), str(network)) for stream, network in data["networks"]),
        )


class Kind(NamedTuple):
    """A call that some steps make; equal ones are the same call.

    Attributes:
        network: the part of the pipeline that is called.
        number: tells different calls of it apart.
    """

    network: str
    number: int


def grouped(of_steps: Sequence[int], calls: Sequence[Sequence[Kind]]) -> Groups:
    """The groups of steps of which `of_steps` says each step's, and `calls` each group's calls."""
    kinds = list(dict.fromkeys(kind for group in calls for kind in group))
    several = len({kind.network for kind in kinds}) > 1
    per_network = Counter(kind.network for kind in kinds)
    names: dict[Kind, str] = {}
    for kind in kinds:
        own = _position(kind, calls) if per_network[kind.network] > 1 else ""
        name = block_name(kind.network if several else "", own) or kind.network
        count = sum(known.partition("#")[0] == name for known in names.values())
        names[kind] = f"{name}#{count + 1}" if count else name
    return Groups(
        tuple(of_steps),
        tuple(tuple(names[kind] for kind in group) for group in calls),
        tuple((names[kind], kind.network) for kind in kinds),
    )


def _position(kind: Kind, calls: Sequence[Sequence[Kind]]) -> str:
    """What a call is called after its place among the calls of its network in a step."""
    alike = [[each for each in group if each.network == kind.network] for group in calls]
    most = max((group for group in alike if kind in group), key=len)
    return stream_names(len(most))[most.index(kind)] or STREAMS[0]


def require_one_group(groups: Groups | None, what: str) -> None:
    """Refuse what works on loops whose steps all do the same.

    Raises:
        SearchError: these do not.
    """
    if groups is not None:
        changes = [s for s, g in enumerate(groups.of_steps) if s and g != groups.of_steps[s - 1]]
        where = (
            f"steps {changes[:8]} compute something else than the steps before them"
            if changes
            else (f"each step calls {', '.join(groups.streams)}")
        )
        msg = (
            f"{what} needs a pipeline whose steps all run one network in the same way, but here {where}; "
            "choose another method, such as dip-go or random"
        )
        raise SearchError(msg)
