"""A frontier as one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.core.template import png_address, render
from search.fitting.effort import Effort
from search.frontier.rivals.layers import RANDOM
from search.frontier.rivals.searches import DIP_GO
from search.frontier.table import (
    compared,
    compared_headings,
    figures_of,
    full_attributes,
    headings,
)

if TYPE_CHECKING:
    from search.frontier.points import Comparison, Frontier


def page(frontier: Frontier, plot: bytes) -> str:
    """The page, with `plot` (a PNG) in it."""
    return render(
        __package__,
        "page.html",
        pipeline=frontier.pipeline,
        plot=png_address(plot),
        comparisons=[_comparison(frontier, each) for each in frontier.comparisons],
        facts=_facts(frontier),
        notes=frontier.notes,
        head=("", *headings(frontier)),
        points=[(point.name, *figures_of(frontier, point)) for point in frontier.points],
    )


def _comparison(frontier: Frontier, comparison: Comparison) -> dict[str, Any]:
    return {
        "keep": f"{comparison.keep:g}",
        "head": compared_headings(frontier),
        "rows": compared(frontier, comparison),
        "verdicts": [each.sentence() for each in comparison.verdicts],
    }


def _facts(frontier: Frontier) -> dict[str, str]:
    settings = frontier.settings
    effort = Effort.of(settings.pictures, settings.iterations)
    calibration, held_out = frontier.prompts
    facts = {
        "denoiser": frontier.whole.binding.denoiser,
        "full sampler": f"{frontier.whole.binding.scheduler}, {frontier.whole.binding.inference_steps} steps, "
        f"{frontier.whole.full_calls} calls, guidance {frontier.whole.guidance:g}",
        "fine reference": f"{frontier.fine_steps} steps of the same sampler",
        "rows are fitted to": "the full sampler"
        if settings.reference_steps is None
        else f"{settings.reference_steps} steps of the same sampler",
        "MACs of the full sampler": f"{frontier.whole.full_calls * frontier.whole.topology.macs:.4g}",
        "held-out pictures": f"{settings.count}, from {len(set(held_out))} prompts, seed {settings.seed}",
        "prompts to search and fit with": str(len(set(calibration))),
        "pictures to fit and choose by": f"{effort.fitted_on + effort.held_out}, the same for all",
    }
    if DIP_GO in settings.methods:
        facts["DiP-GO"] = f"{settings.dip_go_iterations} iterations (published: 1000)"
    if RANDOM in settings.methods:
        facts["random search"] = f"best of {settings.random} tables per keep"
    if attributes := full_attributes(frontier):
        facts["judge"] = attributes
    return facts
