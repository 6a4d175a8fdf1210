"""A frontier as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

from search.frontier.settings import Method
from search.frontier.table import compared, figures_of, full_judged, headings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.frontier.points import Comparison, Frontier

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>stepcarve frontier: {pipeline}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2730; max-width: 1160px;
        margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.scroll {{ overflow-x: auto; }} img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
td, th {{ padding: .15rem .9rem .15rem 0; text-align: left; white-space: nowrap; }}
th {{ font-weight: 500; color: #566573; }} td {{ font-variant-numeric: tabular-nums; }}
tr.ours td {{ font-weight: 600; color: #c0392b; }}
</style>
<h1>Quality against cost: {pipeline}</h1>
<img alt="error of the final latents against cost" src="data:image/png;base64,{plot}">
{comparisons}
<h2>What was compared</h2>
<table>{facts}</table>
{notes}
<h2>All points</h2>
<div class="scroll"><table>{points}</table></div>
<p>Every row is a SubNet in <code>subnets/</code> beside this page. Error is the relative L2 distance of the
final latents to the full sampler's, from the same noise: mean, median and largest over the held-out
pictures. PSNR and SSIM are those of the decoded pictures, 100 dB stands for identical.</p>
</html>
"""


def page(frontier: Frontier, plot: bytes) -> str:
    """The page, with `plot` (a PNG) in it."""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in frontier.notes)
    rows = [(p.name, *figures_of(frontier, p)) for p in frontier.points]
    return _PAGE.format(
        pipeline=html.escape(frontier.pipeline),
        plot=base64.b64encode(plot).decode(),
        comparisons="".join(_comparison(frontier, each) for each in frontier.comparisons),
        facts="".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in _facts(frontier).items()
        ),
        notes=f"<ul>{notes}</ul>" if notes else "",
        points=_table(("", *headings(frontier)), rows),
    )


def _comparison(frontier: Frontier, comparison: Comparison) -> str:
    head = ("at this cost", "", *headings(frontier), "our error / its error")
    rows = compared(frontier, comparison)
    return (
        f"<h2>At {comparison.keep:g} of the full cost, or less</h2>"
        f'<div class="scroll"><table>{_table(head, rows)}</table></div>'
    )


def _facts(frontier: Frontier) -> dict[str, str]:
    settings = frontier.settings
    calibration, held_out = frontier.prompts
    facts = {
        "denoiser": frontier.whole.binding.denoiser,
        "full sampler": f"{frontier.whole.binding.scheduler}, {settings.steps} steps, "
        f"{frontier.whole.full_calls} calls, guidance {frontier.whole.guidance:g}",
        "MACs of the full sampler": f"{frontier.whole.full_calls * frontier.whole.topology.macs:.4g}",
        "held-out pictures": f"{settings.count}, from {len(set(held_out))} prompts, seed {settings.seed}",
        "prompts to search and fit with": str(len(set(calibration))),
    }
    if Method.DIP_GO in settings.methods:
        facts["DiP-GO"] = f"{settings.dip_go_iterations} iterations (published: 1000)"
    if Method.RANDOM in settings.methods:
        facts["random search"] = f"best of {settings.random} tables per keep"
    if judged := full_judged(frontier):
        facts["judge"] = judged
    return facts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    for row in rows:
        kind = ' class="ours"' if row[0].startswith("carve") else ""
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{kind}>{cells}</tr>")
    return "".join(lines)
