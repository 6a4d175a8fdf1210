"""The removable layers: their nesting, and the SubNet without some of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.groups import require_one_group
from search.core.liveness import unroll
from search.core.streams import require_one_call
from search.core.subnet import SubNet
from search.core.table import with_actions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from search.core.subnet import SubNet
    from search.core.table import Cost


@dataclass(frozen=True)
class Layers:
    """The layers of a denoiser that `SKIP` can remove, outer ones before what lies in them.

    Attributes:
        full: a SubNet of that denoiser that runs everything that is there.
        names: of the layers.
        ends: per layer, the number of the next one that does not lie in it.
    """

    full: SubNet
    names: tuple[str, ...]
    ends: tuple[int, ...]

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Per layer, its number among the SubNet's blocks."""
        number = {name: i for i, name in enumerate(self.full.topology.blocks)}
        return tuple(number[name] for name in self.names)

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each layer by its name."""
        return {name: i for i, name in enumerate(self.names)}

    def are_apart(self, chosen: Iterable[int]) -> bool:
        """Whether none of these layers lies in another."""
        end = 0
        for layer in sorted(chosen):
            if layer < end:
                return False
            end = self.ends[layer]
        return True

    def without(self, chosen: Iterable[int], method: str = "laptop") -> SubNet:
        """`full` with these layers skipped at every step."""
        skipped = {self.blocks[layer] for layer in chosen}
        return with_actions(
            self.full,
            lambda _, block: Action.SKIP if block in skipped else Action.RUN,
            method,
        )

    def once_without(self, chosen: Iterable[int]) -> SubNet:
        """The same for one step."""
        return once(self.without(chosen))

    def shares(self, cost: Cost) -> tuple[float, ...]:
        """Per layer, the fraction of the cost that goes when it alone is removed."""
        whole = cost(self.full)
        return tuple(whole - cost(self.without([layer])) for layer in range(len(self.names)))


def layers_of(full: SubNet, *, with_gone: bool = False) -> Layers:
    """The layers that may be skipped, in order of execution, each followed by those in it.

    Those that `full` skips were removed for good; they are among them only `with_gone`, for what goes by
    the structure.

    Raises:
        SearchError: there are none at this granularity, or a step calls the denoiser more than once.
    """
    require_one_group(full.topology.groups, "leaving layers out at all steps")
    require_one_call(full.topology.streams, "leaving layers out at all steps")
    names = [
        full.topology.blocks[block]
        for block in full.topology.based
        if with_gone or full.actions[0][block] is not Action.SKIP
    ]
    if not names:
        msg = (
            f"at {full.granularity} granularity no block of this denoiser can be left out; use "
            "--granularity layer"
        )
        raise SearchError(msg)
    first = {name: min(i for i, n in enumerate(names) if _holds(name, n)) for name in names}
    ordered = sorted(names, key=lambda name: (first[name], name.count(".")))
    ends = [
        next((j for j in range(i + 1, len(ordered)) if not _holds(name, ordered[j])), len(ordered))
        for i, name in enumerate(ordered)
    ]
    return Layers(full, tuple(ordered), tuple(ends))


def _holds(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}.")


def params_of(subnet: SubNet) -> float:
    """The fraction of the denoiser's parameters that some step still reads."""
    return unroll(once(subnet)).params / subnet.topology.params


def once(subnet: SubNet) -> SubNet:
    """One step of a SubNet that does the same at every step, so that its cost is found quickly."""
    binding = replace(subnet.binding, timesteps=subnet.binding.timesteps[:1])
    return replace(subnet, binding=binding, actions=subnet.actions[:1], fitted=None, full_calls=1)


def constant(cost: Cost) -> Callable[[SubNet], float]:
    """`cost` of SubNets that do the same at every step, from one of these."""
    return lambda subnet: cost(once(subnet))
