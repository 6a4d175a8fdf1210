"""Distillation of layer-pruned shapes pipelines: `python -m benchmarks.distill shapes-sd LABEL=SUBNET ...`."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from benchmarks.record import RESULTS, origin, write_as_it_is
from benchmarks.trained import trained_named
from examples.shapes.evaluate import HELD_OUT_SEED
from examples.shapes.pictures import class_names, draw
from search.core.blocks import outermost
from search.core.subnet import Granularity, SubNet
from search.distill.data import Draws, encode_pictures
from search.distill.distill import summarise
from search.distill.recipe import DistillRecipe, Loss
from search.distill.records import DistillRun
from search.distill.skipped import skipped_blocks
from search.distill.student import prune, save_pipeline
from search.distill.training import train
from search.frontier.judge import Judge, frechet_distance
from search.model.family import Request
from search.model.parts_in_place import with_parts
from search.model.reference import sample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from search.model.pipeline import Pipeline

TRAINING_SEED = 77
PICTURES = 8192
STEPS = 20
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The held-out data that students are evaluated on.

    Attributes:
        pipeline: the teacher.
        prompts: of the held-out pictures.
        words: what each should show.
        noise: that each starts from, `[N, C, H, W]`.
        judge: reads them.
        real: its features of real pictures, `[M, F]`.
        finals: the teacher's final latents, `[N, C, H, W]`.
    """

    pipeline: Pipeline
    prompts: tuple[str, ...]
    words: tuple[str, ...]
    noise: Tensor
    judge: Judge
    real: NDArray[np.float32]
    finals: Tensor

    def evaluate(self, finals: Tensor, images: NDArray[np.uint8]) -> dict[str, Any]:
        """Accuracy, Fréchet distance, and relative L2 to the teacher's latents."""
        reading = self.judge.read(images)
        accuracy = self.judge.accuracy(reading, self.words)
        error = (finals - self.finals).flatten(1).norm(dim=1) / self.finals.flatten(1).norm(dim=1)
        return {
            "accuracy": float(np.mean(list(accuracy.values()))),
            "attributes": accuracy,
            "frechet": frechet_distance(self.real, reading.features),
            "error": float(error.mean()),
        }


def sampled(
    pipeline: Pipeline, prompts: tuple[str, ...], noise: Tensor, guidance: float
) -> tuple[Tensor, NDArray[np.uint8]]:
    """Final latents and pictures `[N, 64, 64, 3]` of the denoiser that the pipeline has now."""
    finals, images = [], []
    for first in range(0, len(prompts), BATCH):
        end = first + BATCH
        request = Request(prompts[first:end], STEPS, guidance, latents=noise[first:end])
        found: Any = sample(pipeline, request)
        finals.append(found.latents[-1])
        images.append(np.rint(found.images * 255).astype(np.uint8))
    return torch.cat(finals), np.concatenate(images)


def prepare(name: str, count: int) -> tuple[Evaluation, dict[str, Any]]:
    """The evaluation data, and the teacher's results on it."""
    trained = trained_named(name)
    pipeline = trained.open()
    place = "centred" if name == "shapes-dit" else None
    held_out = draw(count, np.random.default_rng(HELD_OUT_SEED + 1), place=place)
    names = class_names()
    words = (
        held_out.captions()
        if name == "shapes-sd"
        else [names[label] for label in held_out.labels()]
    )
    noise = torch.tensor(
        np.random.default_rng(5).standard_normal((count, 4, 16, 16)), dtype=torch.float32
    )
    judge, real = Judge(trained.judge), trained.real_features()
    finals, images = sampled(pipeline, tuple(words), noise, trained.guidance)
    evaluation = Evaluation(pipeline, tuple(words), tuple(words), noise, judge, real, finals)
    return evaluation, evaluation.evaluate(finals, images)


def training_data(name: str, pipeline: Pipeline, folder: Path) -> Draws:
    """Our generator's pictures, encoded once into `folder`."""
    place = "centred" if name == "shapes-dit" else None
    pictures = draw(PICTURES, np.random.default_rng(TRAINING_SEED), place=place)
    latents = DistillRun(folder).latents(
        (PICTURES, 2, 4, 16, 16),
        {"name": name, "seed": TRAINING_SEED},
        lambda out: encode_pictures(
            pipeline,
            lambda first, end: pictures.pixels[first:end],
            PICTURES,
            out,
            lambda *_: None,
        ),
    )
    names = class_names()
    captions = pictures.captions() if name == "shapes-sd" else [names[i] for i in pictures.labels()]
    return Draws(pipeline, latents, captions, (64, 64))


def student_quality(evaluation: Evaluation, student: Any, guidance: float) -> dict[str, Any]:
    """The student's results on the evaluation data."""
    parts = {evaluation.pipeline.family.component: student}
    with with_parts(evaluation.pipeline.pipe, **parts):
        return evaluation.evaluate(
            *sampled(evaluation.pipeline, evaluation.prompts, evaluation.noise, guidance)
        )


def run_one(
    name: str,
    evaluation: Evaluation,
    draws: Draws,
    subnet: SubNet,
    recipe: DistillRecipe,
    folder: Path,
) -> dict[str, Any]:
    """Distil one SubNet and evaluate it."""
    pipeline, names = evaluation.pipeline, skipped_blocks(subnet)
    began, cpu = time.perf_counter(), time.process_time()
    run = DistillRun(folder)
    student, done = train(
        pipeline,
        names,
        draws,
        recipe,
        folder=run,
        start=run.load(resume=True),
        report=lambda text, _share=None: click.echo(text, err=True),
    )
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    made = folder / "pipeline"
    if not made.exists():
        save_pipeline(pipeline, student, made)
    found = summarise(pipeline.denoiser, student, done)
    return {
        **origin(),
        "removed": list(found.removed),
        "params": list(found.params),
        "recipe": dataclasses.asdict(recipe),
        **spent,
        "last": vars(found.last),
        "after": student_quality(evaluation, student, trained_named(name).guidance),
    }


def require_same(key: str, kept: dict[str, Any], recipe: DistillRecipe, subnet: SubNet) -> None:
    """Refuse a stored run with other settings."""
    theirs = {**kept["recipe"], "removed": sorted(kept["removed"])}
    mine = {**dataclasses.asdict(recipe), "removed": outermost(skipped_blocks(subnet))}
    other = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
    if other:
        msg = (
            f"{key!r} was made with another {', '.join(other)}; use the same, or give another --as"
        )
        raise click.ClickException(msg)


def kept_results(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What earlier commands found with the same settings."""
    if not file.is_file():
        return {**settings, "before": {}, "runs": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name, value in settings.items() if found[name] != value]
    if other:
        msg = f"{file.name} is of another number of {', '.join(other)}; use the same, or give another --as"
        raise click.ClickException(msg)
    return found


@click.command()
@click.argument("name", type=click.Choice(["shapes-sd", "shapes-dit"]))
@click.argument("subnets", nargs=-1)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For run folders.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--iterations", default=400, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--feature-weight", default=1.0, show_default=True)
@click.option("--learning-rate", default=5e-4, show_default=True)
@click.option("--count", default=128, show_default=True, help="Held-out pictures.")
@click.option("--as", "suffix", default="", help="Part of the result's name.")
def main(
    name: str,
    subnets: tuple[str, ...],
    work: Path,
    seeds: str,
    iterations: int,
    batch: int,
    feature_weight: float,
    learning_rate: float,
    count: int,
    suffix: str,
) -> None:
    """Distil every LABEL:LOSS:FEATURES=SUBNET.json with every seed; finished runs are kept.

    A kept run that was made with other settings than these is refused. The results are in
    benchmarks/results/distill-NAME.json, an entry with its own command per run.
    """
    torch.set_num_threads(1)
    file = RESULTS / f"distill-{name}{suffix}.json"
    result = kept_results(file, {"pictures": count, "steps": STEPS})
    evaluation, result["teacher"] = prepare(name, count)
    guidance = trained_named(name).guidance
    draws = training_data(name, evaluation.pipeline, work / f"data-{name}")
    for seed in map(int, seeds.split(",")):
        for each in subnets:
            label, path = each.split("=")
            method, loss, features = label.split(":")
            key = f"{method} {loss} {features} seed {seed}"
            recipe = DistillRecipe(
                loss=Loss(loss),
                features=Granularity(features),
                iterations=iterations,
                batch=batch,
                feature_weight=feature_weight,
                learning_rate=learning_rate,
                seed=seed,
            )
            subnet = SubNet.load(Path(path))
            if key in result["runs"]:
                require_same(key, result["runs"][key], recipe, subnet)
                continue
            if method not in result["before"]:
                untrained = prune(evaluation.pipeline, skipped_blocks(subnet))
                result["before"][method] = student_quality(evaluation, untrained, guidance)
            folder = work / f"{name}{suffix}-{key.replace(' ', '-')}"
            made = result["runs"][key] = run_one(name, evaluation, draws, subnet, recipe, folder)
            write_as_it_is(file.stem, result)
            click.echo(json.dumps({key: made["after"]}))


if __name__ == "__main__":
    main()
