"""Hand-made SubNets: every block, DeepCache, fewer steps, random."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.table import keep_of, with_actions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.core.subnet import SubNet
    from search.core.table import Cost

KEEP_TOLERANCE = 0.02
ATTEMPTS = 32


def deepcache(full: SubNet, *, interval: int, branch: int) -> SubNet:
    """DeepCache (Ma et al. 2023) as the package of that name does it with uniform skipping.

    Every `interval`-th step is full. In between, only the `branch + 1` outermost layers run on the way
    up (and what they read on the way down); all deeper blocks are reused. In terms of blocks, one is
    reused, the last one below those layers, and liveness removes the rest.

    Args:
        full: a SubNet at branch granularity.
        interval: of full steps, at least 1.
        branch: which layer, counted from the outermost; three per level, as in the package.
    """
    if interval < 1:
        msg = f"the DeepCache interval is {interval}; give 1 or more"
        raise SearchError(msg)
    reused = full.topology.blocks.index(deepcache_cut(full.topology.blocks, branch))
    # A multistep sampler may visit a timestep twice; the package counts it where it first stands.
    timesteps = full.binding.timesteps
    position = [timesteps.index(t) for t in timesteps]
    return with_actions(
        full,
        lambda step, block: (
            Action.REUSE if block == reused and position[step] % interval else Action.RUN
        ),
        method=f"deepcache interval {interval} branch {branch}",
    )


def deepcache_branches(blocks: Sequence[str]) -> range:
    """The branches of `deepcache` that a U-Net has; several may cut at the same block."""
    return range(1 + _last(_pairs_and_samplers(blocks)))


def deepcache_cut(blocks: Sequence[str], branch: int) -> str:
    """The block whose output the package's `cache_branch_id` caches."""
    ups = _pairs_and_samplers(blocks)
    level, layer = divmod(branch, 3)
    stage = len(ups) - 1 - level
    pairs = [n for n in ups.get(stage, []) if "upsamplers" not in n]
    cut = len(pairs) - 2 - layer
    if branch >= 0 and stage > 0 and cut < 0:
        return ups[stage - 1][-1]
    if branch < 0 or cut < 0:
        msg = f"there is no DeepCache branch {branch} in this U-Net; give one of 0 to {_last(ups)}"
        raise SearchError(msg)
    return pairs[cut]


def _pairs_and_samplers(blocks: Sequence[str]) -> dict[int, list[str]]:
    """Per up stage, its blocks at branch granularity."""
    ups: dict[int, list[str]] = {}
    for name in blocks:
        parts = name.split(".")
        if parts[0] == "up_blocks" and len(parts) == 4:
            ups.setdefault(int(parts[1]), []).append(name)
    for stage, names in ups.items():
        # A removed ResNet stands beside the attention that its pair is gated at.
        if any("attentions" in name for name in names):
            ups[stage] = [name for name in names if "resnets" not in name]
    if not ups:
        msg = (
            "DeepCache needs a U-Net at branch granularity (blocks like 'up_blocks.3.attentions.1'), "
            f"but the blocks here are {list(blocks[:3])}...; use --granularity branch on a U-Net"
        )
        raise SearchError(msg)
    return ups


def _last(ups: dict[int, list[str]]) -> int:
    pairs = [n for n in ups[0] if "upsamplers" not in n]
    return 3 * (len(ups) - 1) + len(pairs) - 2


def random_reuse(full: SubNet, *, keep: float, seed: int, cost: Cost = keep_of) -> SubNet:
    """Reuse random (step, block) cells until `keep` of the cost remains, within 0.02.

    Cells are taken in a random order that the seed decides, or in another one if that one jumps over
    `keep`; step 0 stays whole. `cost` is of a SubNet, as a fraction of the full sampler's.

    Raises:
        SearchError: the cells are too coarse for that.
    """
    found = (_reuse_at_random(full, keep, (seed, attempt), cost) for attempt in range(ATTEMPTS))
    best = full
    for candidate in found:
        best = min(best, candidate, key=lambda s: abs(cost(s) - keep))
        if abs(cost(best) - keep) <= KEEP_TOLERANCE:
            return dataclasses.replace(best, method=f"random keep {keep} seed {seed}")
    msg = (
        f"no random SubNet of {full.steps} steps x {len(full.topology.blocks)} blocks keeps {keep}; "
        f"the closest keeps {cost(best):.3f}; ask for that, or use a finer --granularity"
    )
    raise SearchError(msg)


def random_within(full: SubNet, *, keep: float, seed: int) -> SubNet:
    """Reuse random (step, block) cells, in an order that the seed decides, until at most `keep` remains.

    Raises:
        SearchError: step 0, which stays whole, costs more.
    """
    rank = _random_order(full, (seed, 0))
    count = _bisected(full, rank, keep, keep_of)
    # Sometimes one more cell raises the cost of a SubNet, so the first that fits may come a little later.
    fitting = (_reusing(full, rank, each) for each in range(count, rank.size + 1))
    for subnet in fitting:
        if keep_of(subnet) <= keep + 1e-9:
            return dataclasses.replace(subnet, method=f"random within {keep:g} seed {seed}")
    msg = f"step 0 alone costs more than a keep of {keep}; raise --keep, or take more --steps"
    raise SearchError(msg)


def _reuse_at_random(full: SubNet, keep: float, seed: tuple[int, int], cost: Cost) -> SubNet:
    """Reuse as many cells of one random order as brings the cost closest to `keep`."""
    rank = _random_order(full, seed)
    low = _bisected(full, rank, keep, cost)
    # Reusing one more cell nearly always lowers the cost, so look around.
    around = range(max(0, low - 4), min(rank.size, low + 5) + 1)
    return min((_reusing(full, rank, count) for count in around), key=lambda s: abs(cost(s) - keep))


def _random_order(full: SubNet, seed: tuple[int, int]) -> NDArray[np.int64]:
    """The turn of each cell, `[steps, blocks]`; those of a block's first step never have theirs."""
    shape = (full.steps, len(full.topology.blocks))
    rank = np.random.default_rng(seed).permutation(shape[0] * shape[1]).reshape(shape)
    for block in range(shape[1]):
        rank[full.topology.first_step(block), block] = rank.size
    return rank


def _reusing(full: SubNet, rank: NDArray[np.int64], count: int) -> SubNet:
    return with_actions(
        full,
        lambda step, block: Action.REUSE if rank[step, block] < count else Action.RUN,
        method="random",
    )


def _bisected(full: SubNet, rank: NDArray[np.int64], keep: float, cost: Cost) -> int:
    """The largest number of reused cells that still costs `keep` or more, if the cost only falls."""
    low, high = 0, rank.size
    while high - low > 1:
        middle = (low + high) // 2
        costs_enough = cost(_reusing(full, rank, middle)) >= keep
        low, high = (middle, high) if costs_enough else (low, middle)
    return low
