"""Quality: how far a SubNet is from the full sampler and from a finer one, on held-out prompts and noise."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.dipgo.losses import ssim
from search.fitting.fit import final_latents
from search.fitting.trajectories import sample_trajectories
from search.frontier.distance import Baseline, Distance, Statistic
from search.frontier.judge import Judge, frechet_distance
from search.model.decoder import Decoder
from search.quantise.rounded import quantised

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from search.core.quantisation import Quantisation
    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.fitting.trajectories import Trajectories
    from search.frontier.settings import FrontierSettings
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]

HELD_OUT, REFERENCE = 1, 2
"""Streams of noise; searches and fits draw theirs from --seed itself and its double."""
TOGETHER = 16
"""Held-out pictures per call; fixed, because their noise depends on it."""
FINER = 10
"""Times as many steps as the full sampler has."""
IDENTICAL = 1e-10
"""Least mean squared error that PSNR tells apart, 100 dB."""


@dataclass(frozen=True)
class Quality:
    """Of the held-out pictures.

    Attributes:
        distances: to the final latents of each target.
        psnr: mean, in dB, to the full sampler's pictures; 100 stands for identical.
        ssim: mean, likewise.
        accuracy: attribute -> share of the pictures in which the judge reads what the prompt says.
        frechet: distance of the judge's features to those of the reference pictures.
    """

    distances: dict[Baseline, Distance]
    psnr: float
    ssim: float
    accuracy: dict[str, float] = field(default_factory=dict)
    frechet: float | None = None

    @property
    def error(self) -> float:
        """Mean distance to the full sampler."""
        return self.distances[Baseline.FULL].value(Statistic.MEAN)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        distances = {target.value: each.to_json() for target, each in self.distances.items()}
        return {**vars(self), "distances": distances}

    @property
    def mean_accuracy(self) -> float | None:
        """Over the attributes."""
        return float(np.mean(list(self.accuracy.values()))) if self.accuracy else None


@dataclass(frozen=True)
class Evaluator:
    """A judge, the attributes it should read, and the features of the reference pictures.

    Attributes:
        judge: reads pictures.
        words: what each held-out picture should show.
        features: of the reference pictures, `[M, F]`.
    """

    judge: Judge
    words: tuple[str, ...]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """Runs of the full sampler to compare with.

    Attributes:
        pipeline: with its weights loaded.
        runs: each of pictures that fit into one call.
        fine: per run, the final latents of the fine reference from the same noise and prompts, `[S, ...]`.
        pictures: of the full sampler, `[N, 3, height, width]` in 0..1.
        evaluator: if there is a judge.
    """

    pipeline: Pipeline
    runs: tuple[Trajectories, ...]
    fine: tuple[Tensor, ...]
    pictures: Tensor
    evaluator: Evaluator | None = None

    def examine(
        self,
        subnet: SubNet,
        table: SamplerTable,
        unguided: Container[int] = (),
        plan: Quantisation | None = None,
    ) -> Quality:
        """Sample the held-out pictures with `subnet` and compare.

        Args:
            subnet: its gates.
            table: rows over its steps.
            unguided: steps at which the prediction with the prompt stands alone.
            plan: by which the denoiser rounds; None: not at all.
        """
        return self.compare(self._finals(subnet, table, unguided, plan))

    def pictures_of(
        self, subnet: SubNet, table: SamplerTable, plan: Quantisation | None = None
    ) -> Tensor:
        """What `subnet` makes of the same noise and prompts, as `pictures` are."""
        return decode(self.pipeline, self.runs, self._finals(subnet, table, (), plan))

    def _finals(
        self,
        subnet: SubNet,
        table: SamplerTable,
        unguided: Container[int],
        plan: Quantisation | None,
    ) -> list[Tensor]:
        with nullcontext() if plan is None else quantised(self.pipeline, plan):
            return [
                final_latents(self.pipeline, subnet, table, runs, unguided=unguided)
                for runs in self.runs
            ]

    def examine_full(self) -> Quality:
        """The quality of the full sampler's own pictures, the upper bound."""
        return self.compare([runs.final for runs in self.runs])

    def compare(self, finals: Sequence[Tensor]) -> Quality:
        """The quality of final latents `[S, ...]`, one tensor per run."""
        own = [runs.final for runs in self.runs]
        distances = {
            Baseline.FULL: distance(finals, own),
            Baseline.FINE: distance(finals, self.fine),
        }
        pictures = decode(self.pipeline, self.runs, finals)
        squared = (pictures - self.pictures).square().mean((1, 2, 3)).clamp_min(IDENTICAL)
        pieces = zip(
            torch.split(pictures, TOGETHER), torch.split(self.pictures, TOGETHER), strict=True
        )
        similar = torch.cat([ssim(*pair) for pair in pieces])
        accuracy, frechet = self._attributes(pictures)
        return Quality(
            distances=distances,
            psnr=float(-10 * squared.log10().mean()),
            ssim=float(similar.mean()),
            accuracy=accuracy,
            frechet=frechet,
        )

    def _attributes(self, pictures: Tensor) -> tuple[dict[str, float], float | None]:
        if self.evaluator is None:
            return {}, None
        reading = self.evaluator.judge.read(as_bytes(pictures))
        accuracy = self.evaluator.judge.accuracy(reading, self.evaluator.words)
        return accuracy, frechet_distance(self.evaluator.features, reading.features)


def distance(finals: Sequence[Tensor], targets: Sequence[Tensor]) -> Distance:
    """Of final latents `[S, ...]` to those of a target, one tensor per run."""
    found = []
    for final, target in zip(finals, targets, strict=True):
        difference = (final - target).flatten(1).norm(dim=1)
        found += (difference / target.flatten(1).norm(dim=1)).tolist()
    return Distance(tuple(found))


def sample_held_out(
    pipeline: Pipeline,
    whole: SubNet,
    prompts: Sequence[str],
    settings: FrontierSettings,
    report: Report,
) -> HeldOut:
    """Run the full sampler and the fine reference on the held-out prompts, repeated if they are few.

    Args:
        pipeline: with its weights loaded and the full sampler's scheduler.
        whole: the full sampler.
        prompts: to evaluate with.
        settings: how many pictures, and which judge.
        report: called with a message and the completed fraction.

    Raises:
        SearchError: the judge cannot read these pictures, or the features are not its own.
    """
    texts = [prompts[i % len(prompts)] for i in range(settings.count)]
    stream = settings.seed, HELD_OUT
    runs = _sample(pipeline, whole, texts, stream, report)
    fine = TimestepGrid(fine_steps(pipeline, whole, settings))
    finals = tuple(run.final for run in _sampled(pipeline, whole, texts, stream, report, fine))
    pictures = decode(pipeline, runs, [each.final for each in runs])
    if settings.judge is None:
        return HeldOut(pipeline, runs, finals, pictures)
    judge = Judge(settings.judge)
    size = _read(judge, pictures[:1]).shape[1]
    if settings.features is not None:
        features = read_features(settings.features, size)
    else:
        others = _sample(pipeline, whole, texts, (settings.seed, REFERENCE), report)
        features = _read(judge, decode(pipeline, others, [each.final for each in others]))
    return HeldOut(
        pipeline, runs, finals, pictures, Evaluator(judge, as_texts(pipeline, texts), features)
    )


def fine_steps(pipeline: Pipeline, whole: SubNet, settings: FrontierSettings) -> int:
    """Inference steps of the fine reference: `FINER` times the full sampler's, if there are so many timesteps."""
    if settings.fine_steps is not None:
        return settings.fine_steps
    trained = int(pipeline.pipe.scheduler.config.get("num_train_timesteps", 1000))
    steps = whole.binding.inference_steps
    return max(steps, min(FINER * steps, trained))


def _sample(
    pipeline: Pipeline,
    whole: SubNet,
    texts: Sequence[str],
    stream: tuple[int, int],
    report: Report,
) -> tuple[Trajectories, ...]:
    return tuple(_sampled(pipeline, whole, texts, stream, report, whole.binding.grid))


def _sampled(
    pipeline: Pipeline,
    whole: SubNet,
    texts: Sequence[str],
    stream: tuple[int, int],
    report: Report,
    grid: TimestepGrid,
) -> Iterator[Trajectories]:
    """Runs one after the other; the noise depends on `stream` alone, not on `grid`."""
    return (
        sample_trajectories(
            pipeline,
            texts[start : start + TOGETHER],
            grid=grid,
            guidance=whole.guidance,
            noise_shape=whole.binding.noise_shape,
            seed=noise_seed(*stream, start),
            progress=lambda done, total, start=start: report(  # type: ignore[misc]
                f"held-out pictures, {grid.inference_steps} steps: {start + 1} and on, call {done} of {total}",
                (start + TOGETHER * done / total) / len(texts),
            ),
        )
        for start in range(0, len(texts), TOGETHER)
    )


def noise_seed(*numbers: int) -> int:
    """A seed derived from these numbers: torch uses only 32 bits, so offsets would collide."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def decode(pipeline: Pipeline, runs: Sequence[Trajectories], finals: Sequence[Tensor]) -> Tensor:
    """Pictures `[S, 3, height, width]` in 0..1 of the final latents of `runs`; of videos, every frame is one."""
    decoder = Decoder(pipeline, pipeline.size(runs[0].predictor.noise_shape))
    with torch.no_grad():
        return torch.cat([decoder(latents).flatten(0, -4) for latents in finals])


def as_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """`[B, 3, height, width]` in 0..1 -> `[B, height, width, 3]`."""
    scaled = (pictures * 255).round().to(torch.uint8).movedim(-3, -1)
    found: NDArray[np.uint8] = scaled.numpy(force=True)
    return found


def _read(judge: Judge, pictures: Tensor) -> NDArray[np.float32]:
    try:
        return judge.read(as_bytes(pictures)).features
    except Exception as error:  # what ONNX Runtime raises for a wrong shape has no public class
        size = " x ".join(map(str, pictures.shape[2:]))
        reason = " ".join(str(error).split())[:200]
        msg = f"the judge cannot read pictures of {size} ({reason}); give one made for this size"
        raise SearchError(msg) from error


def read_features(path: Path, size: int) -> NDArray[np.float32]:
    """Features `[M, size]` of real pictures from a `.npy` file."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        msg = f"{str(path)!r} is not a .npy file ({error}); give the judge's features of real pictures"
        raise SearchError(msg) from error
    if features.ndim != 2 or features.shape[1] != size or len(features) < 2:
        msg = (
            f"{str(path)!r} has the shape {list(features.shape)}, but the judge makes {size} "
            f"features per picture; give an array [M, {size}] with 2 rows or more"
        )
        raise SearchError(msg)
    found: NDArray[np.float32] = features.astype(np.float32)
    return found


def as_texts(pipeline: Pipeline, prompts: Sequence[str]) -> tuple[str, ...]:
    """Prompts as texts: the number of a class becomes its name, if it has one."""
    names = {str(n): word for word, n in reversed(getattr(pipeline.pipe, "labels", {}).items())}
    return tuple(names.get(prompt, prompt) for prompt in prompts)
