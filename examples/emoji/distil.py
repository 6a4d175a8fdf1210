"""Distil the guided sampler into a student of few steps, which needs no guidance.

The teacher's guided paths are sampled finely once. The student learns the chords between the noise
levels of its own few steps, so that one Euler step goes where the teacher's many small ones went.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from examples.emoji import models
from examples.emoji.flow import Flow, draw_counts
from examples.emoji.pictures import captions, choose, trained_items
from examples.emoji.precision import products
from examples.emoji.text import make_tokenizer
from examples.emoji.trainer import Course, Trainer, load_average

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from examples.emoji.artwork import Artwork

BATCH = 64
FINER = 6
"""Steps of the teacher for each step of the student."""
PATHS_PER_FILE, FILES = 512, 12
COURSE = Course(rate=5e-4, steps=2000, warmup=100, cooldown=1000, average=0.995)


def teacher(run: Path) -> str:
    """The stage that a student learns from: the flow with a falling rate, once there is one."""
    return "cooled" if (run / "cooled.safetensors").exists() else "flow"


def levels(steps: int) -> Tensor:
    """The noise levels of the student's sampler, from 1 to 0, `[steps + 1]`."""
    scheduler = models.student_scheduler()
    scheduler.set_timesteps(steps)
    found: Tensor = scheduler.sigmas
    return found


def sample_paths(
    artwork: Artwork, run: Path, *, minutes: float | None, steps: int, files: int = FILES
) -> None:
    """Write the teacher's points at the student's noise levels; files that are there stay."""
    del minutes
    tokens = make_tokenizer(artwork)
    net = load_average(teacher(run), Flow(tokens), run).eval()
    items = trained_items(len(artwork.names))
    (run / "paths").mkdir(parents=True, exist_ok=True)
    for number in range(files):
        file = _file(run, steps, number)
        if file.exists():
            continue
        generator = torch.Generator().manual_seed(number)
        rng = np.random.default_rng(number)
        texts = captions(artwork, choose(items, PATHS_PER_FILE, rng))
        ids = tokens(texts, padding="max_length", return_tensors="pt").input_ids
        empty = tokens("", padding="max_length", return_tensors="pt").input_ids
        points = [follow(net, part, empty, levels(steps), generator) for part in ids.split(BATCH)]
        part = file.with_suffix(".part")
        save_file({"ids": ids, "points": torch.cat(points).half()}, part)
        part.replace(file)


@torch.no_grad()
def follow(
    net: Flow, ids: Tensor, empty: Tensor, noise_levels: Tensor, generator: torch.Generator
) -> Tensor:
    """Points of guided paths at these noise levels, `[N, levels, 8, 16, 16]`."""
    shape = (len(ids), models.LATENT_CHANNELS, models.LATENT_SIZE, models.LATENT_SIZE)
    at = torch.randn(shape, generator=generator)
    both = torch.cat([empty.expand_as(ids), ids])
    points = [at]
    for start, end in pairwise(noise_levels.tolist()):
        fine = torch.linspace(start, end, FINER + 1).tolist()
        for here, there in pairwise(fine):
            at = at + (there - here) * _guided(net, at, here, both)
        points.append(at)
    return torch.stack(points, dim=1)


def _guided(net: Flow, at: Tensor, noise: float, both: Tensor) -> Tensor:
    count = 2 * len(at)
    with products():
        found = net(at.repeat(2, 1, 1, 1), torch.full((count,), noise), both, torch.ones(count))
    without, with_caption = found.float().chunk(2)
    guided: Tensor = without + models.GUIDANCE * (with_caption - without)
    return guided


def train_student(
    artwork: Artwork, run: Path, *, minutes: float | None, steps: int, files: int = FILES
) -> None:
    """Train the student's transformer from the teacher's weights; its text encoders are frozen."""
    tokens, noise_levels = make_tokenizer(artwork), levels(steps)
    found = [load_file(_file(run, steps, number)) for number in range(files)]
    ids, points = (torch.cat([each[key] for each in found]) for key in ("ids", "points"))
    net = load_average(teacher(run), Flow(tokens), run).train()
    net.text.requires_grad_(False)
    trainer = Trainer(f"student-{steps}", net, COURSE, run, seed=7)

    def loss() -> Tensor:
        chosen = torch.from_numpy(trainer.rng.integers(len(points), size=BATCH))
        step = torch.from_numpy(trainer.rng.integers(steps, size=BATCH))
        return chord_loss(net, ids[chosen], points[chosen].float(), step, noise_levels)

    trainer.fit(loss, minutes=minutes)


def chord_loss(
    net: Flow, ids: Tensor, points: Tensor, step: Tensor, noise_levels: Tensor
) -> Tensor:
    """Squared error of the velocity that leads from the point of each step to the next."""
    rows, here, there = torch.arange(len(ids)), noise_levels[step], noise_levels[step + 1]
    start, end = points[rows, step], points[rows, step + 1]
    with products():
        velocity = net(start, here, ids, draw_counts(len(ids)))
    error: Tensor = velocity.float() - (end - start) / (there - here)[:, None, None, None]
    return error.square().mean()


def _file(run: Path, steps: int, number: int) -> Path:
    return run / "paths" / f"{steps}-{number:03}.safetensors"
