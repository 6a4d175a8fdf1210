"""Train the judge, which says what emoji a picture shows, and write it as ONNX."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from onnx_ir.passes import common as passes

from examples.emoji import models
from examples.emoji.artwork import SIZE, STYLES
from examples.emoji.pictures import BACKGROUNDS, choose, compose, trained_items
from examples.emoji.precision import products
from examples.emoji.trainer import Course, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from examples.emoji.artwork import Artwork

BATCH = 64
NOISE = 0.06
COURSE = Course(rate=2e-3, steps=7000, cooldown=1500, average=0.99)


def vocabulary(artwork: Artwork) -> dict[str, tuple[str, ...]]:
    """Attribute -> the words for it, in the order of the judge's logits."""
    backgrounds = tuple(f"on {colour}" for colour in BACKGROUNDS)  # names hold colours too
    return {"emoji": artwork.names, "style": tuple(STYLES), "background": backgrounds}


def train_judge(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Train the judge on fresh, slightly noisy pictures."""
    net: Any = models.JudgeNet(vocabulary(artwork))
    net.to(memory_format=torch.channels_last)
    trainer = Trainer("judge", net, COURSE, run)
    items = trained_items(len(artwork.names))

    def loss() -> Tensor:
        chosen = choose(items, BATCH, trainer.rng)
        images = _pixels(compose(artwork, chosen, trainer.rng))
        strength = torch.rand(len(images), 1, 1, 1) * NOISE
        with products():
            logits = net(images + torch.randn_like(images) * strength)
        truth = {"emoji": chosen.emoji, "style": chosen.styles, "background": chosen.backgrounds}
        losses = [
            F.cross_entropy(logits[name].float(), torch.from_numpy(indices), label_smoothing=0.05)
            for name, indices in truth.items()
        ]
        return torch.stack(losses).sum()

    trainer.fit(loss, minutes=minutes)


def _pixels(pixels: NDArray[np.uint8]) -> Tensor:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images.contiguous(memory_format=torch.channels_last)


def export_judge(net: Any, words: dict[str, tuple[str, ...]], path: Path) -> None:
    """Write the judge as one ONNX file with the words of each attribute in its metadata."""
    batch = torch.export.Dim("N")
    program = torch.onnx.export(
        net.eval().to(memory_format=torch.contiguous_format),
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        input_names=["images"],
        output_names=["features", *words],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    passes.ClearMetadataAndDocStringPass()(program.model)  # it has the paths of this machine
    program.model.metadata_props.update({k: json.dumps(v) for k, v in words.items()})
    program.save(path, external_data=False)
