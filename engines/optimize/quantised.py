"""The stage `quantise`: the SubNet in few bits, for engines that multiply them fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.kinds import engine_kind
from engines.optimize.work import scaled
from search.core.errors import SearchError
from search.core.files import whole_directory
from search.core.quantisation import scheme_named
from search.core.subnet import SubNet
from search.quantise.ranges import Kinds
from search.quantise.recipe import QuantiseEffort, quantise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engines.optimize.folder import OptimizeFolder
    from engines.optimize.settings import Tier
    from engines.optimize.work import Work

FLOAT_SHARE = 0.1
"""Of the multiply-accumulates that stay in floating point."""
LEAST_PICTURES = 8


def quantise_subnet(
    work: Work, folder: OptimizeFolder, engines: Mapping[str, Sequence[str]]
) -> None:
    """Make a plan for each scheme, and write down why there is none for some.

    Args:
        work: with the pipeline.
        folder: has the SubNet.
        engines: scheme -> names of those that will run it.
    """
    refused = {
        scheme: _quantise(work, folder.subnet, scheme, layers_for(names), folder.quantised(scheme))
        for scheme, names in engines.items()
    }
    folder.write(folder.tried, {"refused": refused})


def layers_for(engines: Sequence[str]) -> Kinds:
    """Convolutions too, unless no engine has integer kernels for them."""
    convolve = any(engine_kind(name).convolves_integers for name in engines)
    return Kinds.ALL if convolve else Kinds.LINEAR


def pictures_of(tier: Tier) -> int:
    """How many pictures a plan is made on, and as many are judged."""
    pictures = scaled(QuantiseEffort.pictures, tier.pictures, LEAST_PICTURES)
    assert pictures is not None  # there is a usual number
    return pictures


def _quantise(work: Work, subnet: Path, scheme: str, kinds: Kinds, place: Path) -> str:
    """Make `place` with SubNet and plan, if it is not there yet; returns why it cannot be made, or nothing."""
    if place.exists():
        return ""
    tier = work.settings.tier
    try:
        found = quantise(
            work.pipeline,
            work.whole,
            SubNet.load(subnet),
            work.prompts[0],
            scheme=scheme_named(scheme),
            kinds=kinds,
            share=FLOAT_SHARE,
            effort=QuantiseEffort(pictures_of(tier), tier.probed, work.options.seed),
            report=lambda text, share=None: work.report(f"{scheme}: {text}", share),
        )
    except SearchError as error:
        return str(error)
    with whole_directory(place) as whole:
        found.save(whole / "subnet.json")
    return ""
