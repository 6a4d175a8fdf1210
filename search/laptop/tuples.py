"""The denoiser's inputs that the criteria measure on, drawn once from the real sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from search.core.files import write_atomically
from search.fitting.trajectories import sample_trajectories

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

TENSORS = ("latents", "timesteps", "final")
PICTURES = 32
"""At most so many runs of the full sampler are drawn from."""


@dataclass(frozen=True)
class Tuples:
    """K inputs of the denoiser.

    Attributes:
        latents: on the way of the sampler, `[K, ...]`.
        timesteps: as the scheduler has them, `[K]`.
        final: the latents that way ends with, `[K, ...]`.
        prompts: K of them; with guidance each stands for two inputs, with the prompt and without.
    """

    latents: Tensor
    timesteps: Tensor
    final: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def save(self, path: Path) -> None:
        """Write them atomically."""
        metadata = {str(i): prompt for i, prompt in enumerate(self.prompts)}
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        write_atomically(path, save(tensors, metadata))

    @staticmethod
    def load(path: Path) -> Tuples:
        """Read what `save` wrote."""
        from safetensors import safe_open

        tensors = load(path.read_bytes())
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        prompts = tuple(metadata[str(i)] for i in range(len(tensors["timesteps"])))
        return Tuples(**{name: tensors[name] for name in TENSORS}, prompts=prompts)


def draw_tuples(
    pipeline: Pipeline,
    full: SubNet,
    prompts: Sequence[str],
    *,
    count: int,
    seed: int,
    report: Callable[..., None] = lambda _text, _share=None: None,
) -> Tuples:
    """Draw `count` inputs, spread evenly over the timesteps and over the prompts.

    Args:
        pipeline: with its weights loaded and the scheduler of `full`.
        full: says steps, guidance and shape.
        prompts: repeated, with other noise, if they are few.
        count: K.
        seed: of the noise and of what is drawn.
        report: called with a message and the completed fraction.
    """
    random = np.random.default_rng(seed)
    pictures = min(count, PICTURES)
    texts = [prompts[i % len(prompts)] for i in range(pictures)]
    runs = sample_trajectories(
        pipeline,
        texts,
        grid=full.binding.grid,
        guidance=full.guidance,
        noise_shape=full.binding.noise_shape,
        seed=seed,
        progress=lambda done, total: report(f"full sampler: call {done} of {total}", done / total),
    )
    # One tuple from each of `count` equal parts of the time, where within it is drawn.
    total = len(runs.timesteps)
    steps = np.minimum((np.arange(count) + random.random(count)) * total / count, total - 1)
    at = torch.from_numpy(steps.astype(np.int64))
    whose = np.concatenate([random.permutation(pictures) for _ in range(-(-count // pictures))])
    chosen = whose[:count]
    return Tuples(
        latents=runs.latents[at, torch.from_numpy(chosen)].cpu(),
        timesteps=runs.timesteps[at].cpu(),
        final=runs.final[torch.from_numpy(chosen)].cpu(),
        prompts=tuple(texts[i] for i in chosen),
    )
