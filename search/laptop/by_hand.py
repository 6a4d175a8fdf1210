"""Published and manual layer removals: BK-SDM, SSD-1B, Segmind-Vega, and every second block of a transformer.

They fit any denoiser of the structure they were made for. What is removed there is skipped here: a ResNet
keeps its shortcut convolution, and samplers stay, since the size would not fit without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.core.blocks import outermost
from search.core.errors import SearchError
from search.laptop.knapsack import choose
from search.laptop.layers import Layers, constant, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from search.core.subnet import SubNet
    from search.core.table import Cost

LATER = 100.0
"""Score ratio between consecutive groups of layers."""
VARIANTS = ("base", "small", "tiny")
"""Of BK-SDM, each removing more than the one before."""
BLOCK = re.compile(r"[a-z_]*blocks\.\d+$")
"""A transformer's block, by its name in the denoiser."""


@dataclass(frozen=True)
class Depths:
    """How many transformer blocks there are in each spatial transformer, by stage.

    Attributes:
        down: per down stage that has any, outermost first.
        up: per up stage that has any, innermost first.
        mid: in the middle.
    """

    down: tuple[tuple[int, ...], ...]
    up: tuple[tuple[int, ...], ...]
    mid: tuple[int, ...]


SDXL = Depths(((2, 2), (10, 10)), ((10, 10, 10), (2, 2, 2)), (10,))
DEPTHS = {
    "ssd-1b": Depths(((2, 2), (4, 4)), ((4, 4, 10), (2, 1, 1)), ()),
    "vega": Depths(((1, 1), (2, 2)), ((2, 2, 2), (1, 1, 1)), ()),
}
"""SDXL's descendants. Both leave out the middle transformer and the ResNet behind it."""


def bk_sdm(full: SubNet, variant: str) -> SubNet:
    """BK-SDM (Kim et al. 2023) on a U-Net with four stages of ResNets and transformers.

    base: of each pair of layers on the way down the second, of each three on the way up the middle one;
    small: the middle too; tiny: the innermost stages too.

    Raises:
        SearchError: an unknown variant, or a denoiser of another structure.
    """
    if variant not in VARIANTS:
        msg = f"there is no variant {variant!r} of BK-SDM; choose one of {', '.join(VARIANTS)}, or keep"
        raise SearchError(msg)
    layers = layers_of(full, with_gone=True)
    groups = _bk_sdm_groups(layers)
    chosen = frozenset().union(*groups[: 1 + VARIANTS.index(variant)])
    return _without(layers, chosen, f"bk-sdm {variant}")


def with_depths(full: SubNet, name: str) -> SubNet:
    """A descendant of SDXL by its depths; of each transformer the first blocks stay.

    Raises:
        SearchError: a denoiser of another structure than SDXL.
    """
    layers = layers_of(full, with_gone=True)
    _require_structure(
        _depths(layers) == SDXL, name, "SDXL's U-Net, which has the depths 2, 2 and 10"
    )
    wanted = DEPTHS[name]
    kept = _kept_by_stage(layers, wanted)
    chosen = {
        number
        for number, layer in enumerate(layers.names)
        if (block := re.match(r"(.*)\.transformer_blocks\.(\d+)$", layer))
        and int(block[2]) >= kept.get(block[1], 0)
    }
    chosen |= {layers.number["mid_block.attentions.0"], layers.number["mid_block.resnets.1"]}
    return _without(layers, chosen, name)


def bk_sdm_order(full: SubNet, keep: float, cost: Cost) -> SubNet:
    """BK-SDM's order at any budget: base, then small, then tiny, then the rest of the deeper stages.

    Args:
        full: of a U-Net, at layer granularity.
        keep: the fraction of `cost` that may remain.
        cost: of a SubNet, as a fraction of the full sampler's.

    Raises:
        SearchError: another structure, or a budget beyond all these layers.
    """
    layers = layers_of(full, with_gone=True)
    groups = [*_bk_sdm_groups(layers), _deeper(layers)]
    return _in_order(layers, groups, keep, cost, "bk-sdm order")


def every_second(full: SubNet, keep: float, cost: Cost) -> SubNet:
    """The rule of thumb for transformers: every second block, then the others but the first.

    Arguments and errors are those of `bk_sdm_order`.
    """
    layers = layers_of(full, with_gone=True)
    return _in_order(layers, _alternate(layers), keep, cost, "every-second")


def _without(layers: Layers, chosen: Iterable[int], what: str) -> SubNet:
    """These layers are skipped; those that lie in others of them go with these."""
    names = outermost(layers.names[layer] for layer in chosen)
    return layers.without([layers.number[name] for name in names], what)


def _in_order(
    layers: Layers, groups: Sequence[frozenset[int]], keep: float, cost: Cost, what: str
) -> SubNet:
    """Groups of layers removed one after the other until `keep` of the cost remains."""
    rank = {layer: number for number, group in reversed([*enumerate(groups)]) for layer in group}
    shares = layers.shares(constant(cost))
    usable = [share if i in rank else 0.0 for i, share in enumerate(shares)]
    # A later group counts so much that nothing of it goes while an earlier one is enough.
    scores = [share * LATER ** rank.get(i, 0) for i, share in enumerate(shares)]
    chosen = choose(layers.ends, usable, scores, keep=keep)
    return layers.without(chosen, f"{what} keep {keep:g}")


def _bk_sdm_groups(layers: Layers) -> list[frozenset[int]]:
    """What base removes, what small adds, what tiny adds."""
    downs, ups = _stages(layers, "down_blocks"), _stages(layers, "up_blocks")
    fits = (
        len(downs) == len(ups) >= 3
        and all(_parts(layers, f"down_blocks.{i}.resnets") == 2 for i in downs)
        and all(_parts(layers, f"up_blocks.{i}.resnets") == 3 for i in ups)
        and "mid_block.resnets.1" in layers.number
    )
    _require_structure(
        fits, "bk-sdm", "a U-Net with two layers per stage on the way down and three on the way up"
    )
    base = _matching(
        layers, lambda n: bool(re.match(r"(down|up)_blocks\.\d+\.(resnets|attentions)\.1$", n))
    )
    middle = _matching(
        layers, lambda n: bool(re.match(r"mid_block\.(resnets|attentions)\.\d+$", n))
    )
    inner = rf"(down_blocks\.{downs[-1]}|up_blocks\.{ups[0]})\.(resnets|attentions)\.\d+$"
    return [base, middle, _matching(layers, lambda n: bool(re.match(inner, n)))]


def _deeper(layers: Layers) -> frozenset[int]:
    """ResNets and transformers of all stages but the outermost."""
    last = _stages(layers, "up_blocks")[-1]
    outer = rf"(down_blocks\.0|up_blocks\.{last})\."
    return _matching(
        layers,
        lambda n: bool(re.match(r".*\.(resnets|attentions)\.\d+$", n)) and not re.match(outer, n),
    )


def _alternate(layers: Layers) -> list[frozenset[int]]:
    """Of a list of transformer blocks the second, fourth, ..., and then the others but the first."""
    # Blocks of several lists follow each other; some may be of a kind that cannot be left out.
    order = [name for name in layers.full.topology.blocks if BLOCK.match(name)]
    numbers = {place: layers.number[n] for place, n in enumerate(order) if n in layers.number}
    _require_structure(
        len(numbers) > 1, "every second block", "a transformer with a list of blocks"
    )
    odd = frozenset(i for place, i in numbers.items() if place % 2)
    return [odd, frozenset(i for place, i in numbers.items() if place and not place % 2)]


def _depths(layers: Layers) -> Depths:
    """The transformer blocks of a U-Net's stages."""

    def of(place: str) -> tuple[tuple[int, ...], ...]:
        found = (_in_stage(layers, f"{place}.{i}") for i in _stages(layers, place))
        return tuple(each for each in found if each)

    return Depths(of("down_blocks"), of("up_blocks"), _in_stage(layers, "mid_block"))


def _in_stage(layers: Layers, stage: str) -> tuple[int, ...]:
    count = _parts(layers, f"{stage}.attentions")
    return tuple(_parts(layers, f"{stage}.attentions.{i}.transformer_blocks") for i in range(count))


def _kept_by_stage(layers: Layers, wanted: Depths) -> dict[str, int]:
    """How many blocks of each spatial transformer stay; one that is not named keeps none."""
    kept: dict[str, int] = {}
    for place, stages in (("down_blocks", wanted.down), ("up_blocks", wanted.up)):
        with_any = [i for i in _stages(layers, place) if _in_stage(layers, f"{place}.{i}")]
        for stage, depths in zip(with_any, stages, strict=True):
            for i, depth in enumerate(depths):
                kept[f"{place}.{stage}.attentions.{i}"] = depth
    return kept


def _stages(layers: Layers, place: str) -> list[int]:
    found = (re.match(rf"{place}\.(\d+)\.", name) for name in layers.names)
    return sorted({int(each[1]) for each in found if each})


def _parts(layers: Layers, place: str) -> int:
    """How many numbered layers there are directly under `place`."""
    return sum(bool(re.match(rf"{re.escape(place)}\.\d+$", name)) for name in layers.names)


def _matching(layers: Layers, fits: Callable[[str], bool]) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(layers.names) if fits(name))


def _require_structure(fits: bool, what: str, wanted: str) -> None:
    if not fits:
        msg = f"{what} is made for {wanted}; this denoiser has another structure: choose another method"
        raise SearchError(msg)
