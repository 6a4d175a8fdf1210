"""The training of a student by its teacher, iteration after iteration."""

from __future__ import annotations

import copy
import dataclasses
import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from search.core.errors import SearchError
from search.distill.losses import (
    feature_loss,
    observed,
    prediction_loss,
    surviving_blocks,
)
from search.distill.recipe import Loss
from search.distill.records import DistillProgress, DistillRun
from search.distill.student import prune, removed_with
from search.runs.checkpoints import Checkpoint
from search.runs.rates import warmup_cosine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from search.distill.data import Draws
    from search.distill.recipe import DistillRecipe
    from search.model.pipeline import Pipeline

    Report = Callable[..., None]

TIMED = 10
"""Iterations after which the number that fits into `--minutes` is estimated."""


def train(
    pipeline: Pipeline,
    names: Sequence[str],
    draws: Draws,
    recipe: DistillRecipe,
    *,
    folder: DistillRun | None = None,
    start: Checkpoint[DistillProgress] | None = None,
    report: Report = lambda _text, _share=None: None,
) -> tuple[nn.Module, tuple[DistillProgress, ...]]:
    """Train the denoiser without the blocks `names`; returns its averaged weights and what was done.

    Args:
        pipeline: the teacher, with its weights loaded.
        names: of blocks to take out.
        draws: batches.
        recipe: how.
        folder: for log, plot and checkpoints; None writes no files.
        start: the checkpoint of `folder` to resume from, or None.
        report: called with a message and the completed fraction.
    """
    run = _Distillation(pipeline, names, draws, recipe)
    if folder is not None and start is not None:
        run.restore(folder, start)
    if folder is not None and run.is_first:
        folder.start(run.done)
    with run.watched():
        while len(run.done) < run.iterations:
            entry = run.iterate(len(run.done))
            run.done.append(entry)
            run.fit_into_time()
            report(_line(entry, run.iterations), len(run.done) / run.iterations)
            if folder is None or not run.is_first:
                continue
            folder.log(entry)
            if len(run.done) % recipe.save_every == 0 or len(run.done) == run.iterations:
                folder.save(run.checkpoint())
    average: Any = run.average
    return average.to(memory_format=torch.contiguous_format), tuple(run.done)


def _line(entry: DistillProgress, iterations: int) -> str:
    return (
        f"iteration {entry.iteration + 1} of {iterations}: task {entry.task:.4f}, output "
        f"{entry.output:.4f}, feature {entry.feature:.4f}"
    )


def identity_of(
    pipeline: Pipeline, names: Sequence[str], recipe: DistillRecipe, processes: int
) -> dict[str, object]:
    """What a checkpoint must agree with, beside the data."""
    return {
        "recipe": dataclasses.asdict(recipe) | {"save_every": 0},
        "teacher": pipeline.fingerprint,
        "removed": removed_with(pipeline, names),
        "processes": processes,
    }


class _Distillation:
    """The state of one distillation."""

    def __init__(
        self, pipeline: Pipeline, names: Sequence[str], draws: Draws, recipe: DistillRecipe
    ) -> None:
        self.pipeline, self.names, self.draws, self.recipe = pipeline, names, draws, recipe
        self.accelerator = Accelerator(
            cpu=pipeline.denoiser.device.type == "cpu", mixed_precision=recipe.mixed
        )
        self.teacher = pipeline.denoiser.requires_grad_(False).eval()
        self.teacher.to(memory_format=torch.channels_last)  # a sixth faster on CPUs
        # In evaluation mode too: a DiT would leave out labels by itself.
        student = prune(pipeline, names).requires_grad_(True).eval()
        self.average = copy.deepcopy(student).requires_grad_(False)
        self.inner = student
        optimizer = torch.optim.AdamW(
            student.parameters(),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.student, self.optimizer = self.accelerator.prepare(student, optimizer)
        self.layers = (
            []
            if recipe.loss is Loss.OUTPUT
            else surviving_blocks(student, pipeline.family, recipe.features)
        )
        self.iterations = recipe.iterations
        self.done: list[DistillProgress] = []

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    def watched(self) -> ExitStack:
        """While open, features of teacher and student are kept."""
        stack = ExitStack()
        self.wanted = stack.enter_context(observed(self.teacher, self.layers))
        self.made = stack.enter_context(observed(self.inner, self.layers))
        return stack

    def iterate(self, iteration: int) -> DistillProgress:
        """One step of the optimiser."""
        start, recipe = time.perf_counter(), self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_cosine(
                recipe.learning_rate, recipe.warmup, iteration, self.iterations
            )
        sums = torch.zeros(3, device=self.accelerator.device)
        for part in range(recipe.accumulate):
            is_last = part + 1 == recipe.accumulate
            # Processes need to hear of each other's gradients only once.
            with nullcontext() if is_last else self.accelerator.no_sync(self.student):
                terms = self._terms(iteration, part)
                weights = (recipe.task_weight, recipe.output_weight, recipe.feature_weight)
                pairs = zip(weights, terms, strict=True)
                total = sum((w * t for w, t in pairs), start=torch.zeros_like(sums[0]))
                self.accelerator.backward(total / recipe.accumulate)
            sums += torch.stack([term.detach() for term in terms]) / recipe.accumulate
        losses = self.accelerator.reduce(sums, "mean")
        _require_finite("loss", iteration, losses)
        norm = self.accelerator.clip_grad_norm_(self.student.parameters(), recipe.clip)
        if recipe.mixed != "fp16":  # there the scaler skips such a step and scales less
            _require_finite("gradient", iteration, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._smooth(min(recipe.ema, (1 + iteration) / (10 + iteration)))
        task, output, feature = losses.tolist()
        rate = float(self.optimizer.param_groups[0]["lr"])
        return DistillProgress(iteration, task, output, feature, rate, time.perf_counter() - start)

    def _terms(self, iteration: int, part: int) -> tuple[Tensor, Tensor, Tensor]:
        """Task, output and feature loss of one batch."""
        recipe = self.recipe
        batch = self.draws.batch(
            (recipe.seed, iteration, self.accelerator.process_index, part),
            recipe.batch,
            drop=recipe.drop,
            floor=recipe.snr_floor,
            cap=recipe.snr_cap,
        )
        channels = batch.wanted.shape[1]
        with self.accelerator.autocast():
            with torch.no_grad():
                theirs = self._predict(self.teacher, batch.arguments, channels)
            mine = self._predict(self.student, batch.arguments, channels)
        task = prediction_loss(mine, batch.wanted, batch.weights)
        output = prediction_loss(mine, theirs, batch.weights)
        if not self.layers:
            return task, output, torch.zeros_like(task)
        return task, output, feature_loss(recipe.loss, self.wanted, self.made)

    def _predict(self, denoiser: nn.Module, arguments: dict[str, Any], channels: int) -> Tensor:
        made: Tensor = denoiser(**arguments)[0]
        return made[:, :channels]  # learned variances follow

    def _smooth(self, decay: float) -> None:
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.inner.parameters()), 1 - decay)

    def fit_into_time(self) -> None:
        """After a few iterations, set the number that fits into the recipe's minutes."""
        minutes = self.recipe.minutes
        if minutes is None or len(self.done) != TIMED:
            return
        each = sorted(entry.seconds for entry in self.done)[TIMED // 2]
        wanted = torch.tensor(float(TIMED + int(max(0.0, 60 * minutes - TIMED * each) / each)))
        agreed = self.accelerator.reduce(wanted.to(self.accelerator.device), "mean")
        self.iterations = min(self.recipe.iterations, int(agreed))

    def checkpoint(self) -> Checkpoint[DistillProgress]:
        """The state that a resumed training needs; batches follow from the iteration."""
        scaler = self.accelerator.scaler
        return Checkpoint(
            identity=self._identity(),
            states={
                "iterations": self.iterations,
                "states": {
                    "student": self.inner.state_dict(),
                    "average": self.average.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": {} if scaler is None else scaler.state_dict(),
                },
            },
            done=tuple(self.done),
        )

    def restore(self, folder: DistillRun, found: Checkpoint[DistillProgress]) -> None:
        """Go on from a checkpoint of `folder`."""
        folder.require_same(found, self._identity())
        states = found.states["states"]
        self.inner.load_state_dict(states["student"])
        self.average.load_state_dict(states["average"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states["scaler"])
        self.iterations, self.done = found.states["iterations"], list(found.done)

    def _identity(self) -> dict[str, object]:
        """What a checkpoint must agree with."""
        own = identity_of(self.pipeline, self.names, self.recipe, self.accelerator.num_processes)
        return {**own, "data": self.draws.fingerprint}


def _require_finite(what: str, iteration: int, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        msg = (
            f"the {what} of iteration {iteration} is not finite; lower --learning-rate, or use "
            "--dtype float32"
        )
        raise SearchError(msg)
