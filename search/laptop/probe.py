"""Losses of sets of layers, measured in independent jobs and stored as they finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from search.core.errors import SearchError
from search.core.subnet import SubNet
from search.laptop.baselines import LatentStatistics, TaskLoss
from search.laptop.layers import Layers, layers_of
from search.laptop.loss import OutputLoss, PictureLoss
from search.laptop.settings import Criterion, LaptopSettings
from search.laptop.store import FULL, TUPLES, Known, Store
from search.laptop.tuples import Tuples
from search.model.opening import open_for
from search.runs.parallel import Where, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    import torch

    from search.model.pipeline import Pipeline

PER_JOB = 16
"""Sets of layers that share one call of the whole denoiser, and are written down together."""


class Probe(Protocol):
    """Measures sets of layers."""

    def __call__(self, removed: Sequence[AbstractSet[int]]) -> torch.Tensor:
        """Losses `[len(removed), parts]`; that of a set is the mean of its parts."""


PROBES: dict[Criterion, Callable[[Pipeline, Layers, Tuples], Probe]] = {
    Criterion.OUTPUT: OutputLoss,
    Criterion.PICTURE: PictureLoss,
    Criterion.TASK: TaskLoss,
    Criterion.LD_PRUNER: LatentStatistics,
}


@dataclass(frozen=True)
class ProbeJob:
    """What a worker is given.

    Attributes:
        pipeline: its directory.
        folder: with the full SubNet and the tuples.
        run: tells searches in one folder apart.
        device: to work on.
        dtype: of the denoiser.
        criterion: to measure.
        removed: the sets of layers.
    """

    pipeline: Path
    folder: Path
    run: str
    device: str
    dtype: str
    criterion: Criterion
    removed: tuple[frozenset[int], ...]


@dataclass
class Measure:
    """Losses of sets of layers; what is known is not measured again.

    Attributes:
        pipeline: with its weights loaded.
        layers: of its denoiser.
        tuples: to measure on; those in the store.
        settings: how to run.
        store: where losses are written.
        known: the losses so far.
        run: tells searches in one folder apart.
        report: called with a message and the completed fraction.
    """

    pipeline: Pipeline
    layers: Layers
    tuples: Tuples
    settings: LaptopSettings
    store: Store
    known: Known
    run: str
    report: Callable[..., None]
    _probes: dict[Criterion, Probe] = field(default_factory=dict)

    def __call__(
        self, removed: Sequence[AbstractSet[int]], criterion: Criterion, what: str
    ) -> list[float]:
        """One loss for each set; `what` says in a few words what they are for."""
        return [sum(parts) / len(parts) for parts in self.parts(removed, criterion, what)]

    def parts(
        self, removed: Sequence[AbstractSet[int]], criterion: Criterion, what: str
    ) -> list[tuple[float, ...]]:
        """The parts of each of these losses: one per tuple, where the criterion has them."""
        keys = [(str(criterion), self._names(one)) for one in removed]
        missing = dict.fromkeys(
            frozenset(o) for o, k in zip(removed, keys, strict=True) if k not in self.known
        )
        jobs = self._jobs(list(missing), criterion)
        done, total = 0, len(missing)
        alone = self.settings.workers == 1 and self.settings.where is Where.LOCAL
        function = self._here if alone else _elsewhere
        self.report(what, 0.0)
        for number, losses in run_jobs(
            function, jobs, workers=self.settings.workers, where=self.settings.where
        ):
            pairs = [(self._names(o), x) for o, x in zip(jobs[number].removed, losses, strict=True)]
            self.store.add(criterion, pairs)
            self.known.update({(str(criterion), names): parts for names, parts in pairs})
            done += len(pairs)
            self.report(f"{what}: {done} of {total} sets of layers", done / total)
        return [self.known[key] for key in keys]

    def _names(self, one: AbstractSet[int]) -> frozenset[str]:
        return frozenset(self.layers.names[layer] for layer in one)

    def _jobs(self, removed: Sequence[frozenset[int]], criterion: Criterion) -> list[ProbeJob]:
        """The sets in jobs that cost alike: each has sets that begin early and late."""
        ordered = sorted(
            removed, key=lambda one: min((self.layers.blocks[i] for i in one), default=0)
        )
        workers = self.settings.workers
        count = -(-len(ordered) // PER_JOB)
        count = min(len(ordered), -(-count // workers) * workers)
        device = str(self.pipeline.denoiser.device)
        return [
            ProbeJob(
                self.pipeline.path.resolve(),
                self.store.path.resolve(),
                self.run,
                device,
                self.pipeline.dtype,
                criterion,
                tuple(ordered[start::count]),
            )
            for start in range(count)
        ]

    def _here(self, job: ProbeJob) -> list[tuple[float, ...]]:
        if job.criterion not in self._probes:
            self._probes[job.criterion] = PROBES[job.criterion](
                self.pipeline, self.layers, self.tuples
            )
        return _finite(self._probes[job.criterion], job, self.layers)


def _elsewhere(job: ProbeJob) -> list[tuple[float, ...]]:
    """The losses of a job, in a worker that opens the pipeline for itself."""
    where = job.pipeline, job.folder, job.run, job.device, job.dtype
    probe, layers = _opened(*where, job.criterion)
    return _finite(probe, job, layers)


@lru_cache(maxsize=1)
def _opened(
    path: Path, folder: Path, run: str, device: str, dtype: str, criterion: Criterion
) -> tuple[Probe, Layers]:
    del run
    layers = layers_of(SubNet.load(folder / FULL))
    pipeline = open_for(layers.full, path, weights=True, device=device, dtype=dtype)
    return PROBES[criterion](pipeline, layers, Tuples.load(folder / TUPLES)), layers


def _finite(probe: Probe, job: ProbeJob, layers: Layers) -> list[tuple[float, ...]]:
    losses = probe(job.removed)
    for one, is_finite in zip(job.removed, losses.isfinite().all(dim=1).tolist(), strict=True):
        if not is_finite:
            names = sorted(layers.names[layer] for layer in one)
            msg = (
                f"without {names} the denoiser's predictions are not finite; check the pipeline's "
                "weights"
            )
            raise SearchError(msg)
    return [tuple(parts) for parts in losses.tolist()]
