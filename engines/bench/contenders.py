"""Which rows a comparison has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from engines.bench.records import Against, Contender, ContenderKind
from search.core.errors import SearchError
from search.core.table import whole_table
from search.methods.schedules import deepcache, deepcache_branches, deepcache_cut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.bundle import Bundle
    from search.core.subnet import SubNet

INTERVAL = 5
"""Interval of full steps if only a branch is given."""


@dataclass(frozen=True)
class DeepCacheSetting:
    """Settings of the package.

    Attributes:
        interval: of full steps.
        branch: the cached layer, 0 outermost.
    """

    interval: int
    branch: int


def contenders(
    bundle: Bundle,
    full: Bundle,
    *,
    pipeline: Path,
    loras: Sequence[Path] = (),
    engines: Sequence[str],
    device: str,
    against: Sequence[Against],
    setting: DeepCacheSetting | None,
    threads: int | None = None,
) -> list[Contender]:
    """One row per contender, in the order of the table."""
    shape, whole = bundle.shape, full is bundle

    # Half precision is not for diffusers' pipelines on the CPU.
    in_torch = "float32" if device == "cpu" else bundle.dtype

    def row(name: str, kind: ContenderKind, which: Bundle, **more: object) -> Contender:
        return Contender(
            name=name,
            kind=kind,
            bundle=which.path,
            shape=shape,
            is_full=which is full and kind is not ContenderKind.DEEPCACHE,
            device=device,
            pipeline=pipeline,
            loras=tuple(loras),
            dtype=bundle.dtype if kind is ContenderKind.ENGINE else in_torch,
            precision=which.precision if kind is ContenderKind.ENGINE else in_torch,
            threads=threads,
            **more,  # type: ignore[arg-type]
        )

    rows: list[Contender] = []
    if Against.EAGER in against:
        rows.append(row("PyTorch", ContenderKind.EAGER, full))
        if not whole:
            rows.append(row("PyTorch + SubNet", ContenderKind.REFERENCE, bundle))
    if Against.COMPILE in against:
        rows.append(row("torch.compile", ContenderKind.COMPILE, full))
    if Against.DEEPCACHE in against and setting is not None:
        name = f"DeepCache package, interval {setting.interval} branch {setting.branch}"
        rows.append(row(name, ContenderKind.DEEPCACHE, full, **vars(setting)))
    for engine in engines:
        rows.append(row(engine, ContenderKind.ENGINE, full, engine=engine))
        if not whole:
            rows.append(row(f"{engine} + SubNet", ContenderKind.ENGINE, bundle, engine=engine))
    return rows


def deepcache_setting(
    subnet: SubNet, interval: int | None = None, branch: int | None = None
) -> DeepCacheSetting | None:
    """Settings of the package: the given ones, or those that reproduce `subnet`.

    None if none are given and no setting reproduces it.

    Raises:
        SearchError: the given settings do not fit this denoiser.
    """
    if interval is not None or branch is not None:
        deepcache_cut(subnet.topology.blocks, branch or 0)
        return DeepCacheSetting(INTERVAL if interval is None else interval, branch or 0)
    full = whole_table(subnet)
    if full is None or subnet.fitted is not None:
        return None
    try:
        branches = deepcache_branches(subnet.topology.blocks)
    except SearchError:
        return None
    for each in product(range(2, subnet.steps + 1), branches):
        if deepcache(full, interval=each[0], branch=each[1]).actions == subnet.actions:
            return DeepCacheSetting(*each)
    return None
