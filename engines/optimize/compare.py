"""The stage `compare`: the SubNet beside fewer steps and DeepCache, on pictures that no search has seen."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engines.optimize.choose import searched
from engines.parity import psnr
from search.core.errors import SearchError
from search.core.files import whole_directory, write_atomically
from search.core.liveness import unroll
from search.core.quantisation import SUFFIX, Quantisation
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.frontier.distance import Baseline, Statistic
from search.frontier.plot import draw
from search.frontier.points import Frontier, Point
from search.frontier.quality import as_bytes, as_texts, fine_steps
from search.frontier.registry import series_named
from search.frontier.rivals.layers import DEEPCACHE
from search.frontier.rivals.solvers import FEWER_STEPS
from search.frontier.write import write_frontier
from search.methods.fewer_steps import fewer_steps
from search.methods.schedules import deepcache
from search.quantise.size import weights_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from engines.optimize.folder import OptimizeFolder
    from engines.optimize.work import Work
    from search.frontier.series import Series

SHOWN = 6
"""Pictures on the page, at most."""
RIVAL_KEEPS = (0.1, 0.2, 0.3, 0.5)
"""At which fewer steps are drawn, beside the cost of the SubNet that is taken."""
INTERVALS = (2, 3, 5)
FULL, OURS, FEWER = "full", "ours", "fewer"


def compare(work: Work, folder: OptimizeFolder) -> None:
    """Write the folder `quality`: figures, plot, and pictures from equal noise."""
    taken = SubNet.load(folder.subnet)
    mine = _mine(work, folder, taken)
    equal = _equal(work, taken)
    rivals, notes = _rivals(work, equal)
    points = []
    for number, point in enumerate([*mine, *rivals]):
        work.report(f"compare: {point[0]} {point[1]}", number / (len(mine) + len(rivals)))
        points.append(_point(work, *point))
    quantised = _quantised(work, folder, mine[0])
    frontier = Frontier(
        pipeline=str(work.settings.pipeline),
        settings=replace(
            work.comparison,
            keeps=tuple(keep for _, _, keep, _ in mine),
            precisions=tuple(quantised),
        ),
        whole=work.whole,
        fine_steps=fine_steps(work.pipeline, work.whole, work.comparison),
        prompts=work.prompts,
        reference=None,
        full=work.held_out.examine_full(),
        points=(*points, *quantised.values()),
        notes=notes,
    )
    with whole_directory(folder.quality) as place:
        write_frontier(frontier, place / "frontier")
        write_atomically(place / "plot.png", draw(frontier, marked=points[0]))
        fewer = next(point for point in points if point.subnet is equal)
        _write_pictures(work, {OURS: points[0], **quantised, FEWER: fewer}, place)


def _quantised(
    work: Work, folder: OptimizeFolder, taken: tuple[Series, str, float, SubNet]
) -> dict[str, Point]:
    """The SubNet that is taken, by each scheme that it was quantised in."""
    refused = folder.read(folder.tried)["refused"]
    found = {}
    for scheme in [name for name, why in refused.items() if not why]:
        work.report(f"compare: {taken[1]} in {scheme}")
        file = folder.quantised(scheme) / "subnet.json"
        plan = Quantisation.load(file.with_suffix(SUFFIX))
        found[scheme] = _point(work, *taken[:3], SubNet.load(file), plan)
    return found


def _mine(
    work: Work, folder: OptimizeFolder, taken: SubNet
) -> list[tuple[Series, str, float, SubNet]]:
    """The SubNet that is taken, and those of the other costs that were searched."""
    series = series_named(work.settings.method)
    files = {keep: searched(folder.searches, keep) for keep in work.settings.goal.keeps}
    found = [
        (series, f"keep {keep:g}", keep, SubNet.load(file))
        for keep, file in files.items()
        if file.is_file()
    ]
    return sorted(found, key=lambda each: each[3] != taken)


def _equal(work: Work, taken: SubNet) -> SubNet:
    """Fewer steps of the full sampler at the cost of the SubNet that is taken, or a little below."""
    least = 1 / work.whole.full_calls
    return fewer_steps(work.pipeline, work.whole, max(keep_of(taken), least))


def _rivals(
    work: Work, equal: SubNet
) -> tuple[list[tuple[Series, str, float, SubNet]], tuple[str, ...]]:
    """What it is compared with, and what cannot be."""
    calls = work.whole.full_calls
    found: dict[int, SubNet] = {equal.steps: equal}
    for keep in RIVAL_KEEPS:
        if keep * calls >= 1:
            subnet = fewer_steps(work.pipeline, work.whole, keep)
            found.setdefault(subnet.steps, subnet)
    rivals: list[tuple[Series, str, float, SubNet]] = [
        (FEWER_STEPS, f"{steps} steps", keep_of(subnet), subnet)
        for steps, subnet in sorted(found.items())
    ]
    try:
        for interval in INTERVALS:
            if interval < calls:
                cached = deepcache(work.whole, interval=interval, branch=0)
                rivals.append((DEEPCACHE, f"interval {interval}", keep_of(cached), cached))
    except SearchError as error:
        return rivals, (f"{DEEPCACHE} is left out: {error}",)
    return rivals, ()


def _point(
    work: Work,
    method: Series,
    label: str,
    keep: float,
    subnet: SubNet,
    plan: Quantisation | None = None,
) -> Point:
    return Point(
        method=method,
        label=label,
        keep=keep,
        is_fitted=subnet.fitted is not None,
        cost=keep_of(subnet),
        calls=len(unroll(subnet).calls),
        quality=work.quality(subnet, plan),
        subnet=subnet,
        plan=plan,
        weights_bytes=weights_bytes(work.pipeline, plan),
    )


def _write_pictures(work: Work, shown: Mapping[str, Point], place: Path) -> None:
    """One PNG per picture and way, and `pictures.json`, which says what they show."""
    held_out = work.held_out
    sets = {FULL: _pixels(held_out.pictures, work)}
    for name, point in shown.items():
        assert point.subnet is not None  # all that is shown could be compiled
        made = held_out.pictures_of(point.subnet, work.table(point.subnet), point.plan)
        sets[name] = _pixels(made, work)
    texts = [prompt for runs in held_out.runs for prompt in runs.predictor.prompts]
    count = min(SHOWN, len(texts))
    for name, pictures in sets.items():
        for number in range(count):
            write_atomically(place / f"{name}-{number}.png", _png(pictures[number]))
    likeness = {
        name: [_finite(psnr(a, b)) for a, b in zip(sets[name], sets[FULL], strict=True)][:count]
        for name in shown
    }
    record = {
        "prompts": list(as_texts(work.pipeline, texts[:count])),
        "classes": bool(work.pipeline.family.classes(work.pipeline.pipe)),
        "full_timesteps": list(work.whole.timesteps),
        "psnr": likeness,
        "points": {name: _record(point) for name, point in shown.items()},
        "told_apart": shown[OURS]
        .quality.distances[Baseline.FULL]
        .is_apart(shown[FEWER].quality.distances[Baseline.FULL], Statistic.MEAN),
    }
    write_atomically(place / "pictures.json", json.dumps(record, indent=1) + "\n")


def _record(point: Point) -> dict[str, Any]:
    """As plain JSON values, with the distance to the full sampler on its own."""
    return {**point.to_json(), "error": point.quality.error}


def _pixels(pictures: Tensor, work: Work) -> NDArray[np.uint8]:
    """One picture `[height, width, 3]` each; of a video its middle frame."""
    pixels = as_bytes(pictures)
    frames = len(pixels) // sum(len(runs.noise) for runs in work.held_out.runs)
    return pixels[frames // 2 :: frames]


def _finite(value: float) -> float:
    """Identical pictures count as 100 dB, as elsewhere."""
    return min(value, 100.0)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
