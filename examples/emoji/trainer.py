"""Training that can be interrupted: optimiser, schedule, averaged weights, checkpoint and loss log."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

M = TypeVar("M", bound=nn.Module)
DEFAULT_RUN = Path.home() / ".cache" / "stepcarve" / "emoji" / "run"
LOG_EVERY = 50
SAVE_EVERY_SECONDS = 240


@dataclass(frozen=True)
class Course:
    """How one stage is trained: the rate climbs, stays, and falls to zero at the end.

    Attributes:
        rate: the highest learning rate.
        steps: optimiser steps in all.
        warmup: steps in which the rate climbs.
        cooldown: last steps, in which it falls.
        average: decay of the averaged weights, once there are enough steps for it.
        weight_decay: on matrices.
        muon: whether the matrices of transformer blocks are trained with Muon (Jordan 2024).
    """

    rate: float
    steps: int
    warmup: int = 100
    cooldown: int = 0
    average: float = 0.999
    weight_decay: float = 0.01
    muon: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of optimiser step `step`, which counts from 1."""
        climb = min(1.0, step / max(1, self.warmup))
        fall = min(1.0, (self.steps - step + 1) / self.cooldown) if self.cooldown else 1.0
        return self.rate * climb * fall


class Trainer:
    """One stage of training, which continues exactly where its checkpoint in `run` ends."""

    def __init__(
        self, name: str, module: nn.Module, course: Course, run: Path, *, seed: int = 0
    ) -> None:
        self.name, self.module, self.course, self.run = name, module, course, run
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.optimisers = _optimisers(module, course)
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        if self.checkpoint.exists():
            self.load()

    @property
    def checkpoint(self) -> Path:
        """Everything that the next step depends on."""
        return self.run / f"{self.name}.safetensors"

    def fit(self, loss: Callable[[], Tensor], *, minutes: float | None = None) -> None:
        """Minimise `loss()` until the course ends or the minutes have passed."""
        spent, began = self.seconds, time.perf_counter()
        saved, end = began, began + 60 * (math.inf if minutes is None else minutes)
        recent: list[Tensor] = []
        while self.step < self.course.steps and time.perf_counter() < end:
            recent.append(self.advance(loss))
            now = time.perf_counter()
            self.seconds = spent + now - began
            if self.step % LOG_EVERY == 0:
                self.losses.append((self.step, round(torch.stack(recent).mean().item(), 6)))
                self._tell()
                recent.clear()
            if now - saved > SAVE_EVERY_SECONDS:
                self.save()
                saved = now
        self.save()

    def advance(self, loss: Callable[[], Tensor]) -> Tensor:
        """Take one step; returns its loss."""
        self.step += 1
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.course.rate_at(self.step)
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        decay = min(self.course.average, self.step / (self.step + 10))
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.module.parameters()), 1 - decay)
        return value.detach()

    def _tell(self) -> None:
        step, loss = self.losses[-1]
        line = f"{self.name:12} step {step:6} of {self.course.steps}   loss {loss:.4f}"
        click.echo(f"{line}   {self.seconds / 60:.1f} min")

    def save(self) -> None:
        """Write the checkpoint, all or nothing."""
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{index}.{k}": v for k, v in state.items()}
        tensors["generator"] = torch.get_rng_state()
        record = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "rng": self.rng.bit_generator.state,
        }
        self.run.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        save_file(tensors, part, metadata={"record": json.dumps(record)})
        part.replace(self.checkpoint)

    def load(self) -> None:
        """Continue from the checkpoint."""
        with safe_open(self.checkpoint, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.module.load_state_dict(_under("module.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        for number, optimiser in enumerate(self.optimisers):
            states: dict[int, dict[str, Tensor]] = {}
            for key, value in _under(f"optimiser.{number}.", tensors).items():
                index, name = key.split(".")
                states.setdefault(int(index), {})[name] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": states, "param_groups": groups})
        torch.set_rng_state(tensors["generator"])
        self.rng.bit_generator.state = record["rng"]
        self.step, self.seconds = record["step"], record["seconds"]
        self.losses = [(step, loss) for step, loss in record["losses"]]


def load_average(name: str, module: M, run: Path) -> M:
    """`module` with the averaged weights of the stage `name`."""
    with safe_open(run / f"{name}.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("average.")]  # noqa: SIM118
        tensors = {key: file.get_tensor(key) for key in keys}
    module.load_state_dict(_under("average.", tensors))
    return module


def read_record(checkpoint: Path) -> dict[str, Any] | None:
    """Steps, seconds and losses of a checkpoint; None if the file is none."""
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata() or {}
    return json.loads(metadata["record"]) if "record" in metadata else None


def _optimisers(module: nn.Module, course: Course) -> list[torch.optim.Optimizer]:
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if course.muon and p.ndim == 2 and "transformer_blocks." in n]
    rest = [p for _, p in named if all(p is not each for each in inner)]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": course.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=course.rate, fused=True)
    ]
    if inner:
        muon = torch.optim.Muon(
            inner,
            lr=course.rate,
            weight_decay=course.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        optimisers.append(muon)
    return optimisers


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
