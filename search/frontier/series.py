"""One series of a frontier: how its points are made and drawn. No framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from search.frontier.calibration import Calibration
    from search.frontier.candidate import Candidate

    Report = Callable[..., None]
    Make = Callable[[Calibration, Report], list[Candidate]]


@dataclass(frozen=True)
class Series:
    """The points of one method.

    Attributes:
        name: on the command line and in files.
        label: in the plot's legend.
        colour: of its points and line.
        marker: of its points, as Matplotlib names it.
        make: its candidates, at most one per keep; imports what it needs when it is called.
        options: of `stepcarve frontier`, that only some series use.
        fits_itself: whether its rows are always fitted.
    """

    name: str
    label: str
    colour: str
    marker: str
    make: Make = field(compare=False, repr=False)
    options: tuple[str, ...] = ()
    fits_itself: bool = False

    def __str__(self) -> str:
        return self.name
