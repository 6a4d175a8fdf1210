"""The captions as token ids, and the text encoders' first lesson: what a caption's picture looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from examples.clip_text import LENGTH, tokenizer
from examples.emoji import models
from examples.emoji.artwork import LONGEST, SIZE, STYLES, Artwork, name_pieces
from examples.emoji.pictures import BACKGROUNDS, Items, caption, compose, trained_items
from examples.emoji.precision import products
from examples.emoji.trainer import Course, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import CLIPTokenizer

BATCH = 128
OTHER_NAME, WITH_KIND = 0.1, 0.1
"""Shares of the captions that call the emoji by its second name, and that add its kind."""
THUMBNAIL = 16
COURSE = Course(rate=2e-3, steps=1200, cooldown=400, average=0.99, weight_decay=0.01)


def make_tokenizer(artwork: Artwork) -> CLIPTokenizer:
    """The tokenizer of both text encoders; knows every word of every caption."""
    names = [*artwork.names, *artwork.others, *artwork.kinds, *STYLES, *BACKGROUNDS, "on"]
    return tokenizer(piece for name in names for piece in name_pieces(name))


def caption_ids(artwork: Artwork, items: Items, tokens: CLIPTokenizer) -> Tensor:
    """Token ids `[3, N, 16]`: with the name, with the second name, with name and kind."""
    forms = []
    for names in (artwork.names, artwork.others, _with_kinds(artwork)):
        texts = [
            caption(names[e], s, b)
            for e, s, b in zip(items.emoji, items.styles, items.backgrounds, strict=True)
        ]
        forms.append(tokens(texts, padding="max_length", return_tensors="pt").input_ids)
    return torch.stack(forms)


def _with_kinds(artwork: Artwork) -> list[str]:
    longer = [f"{n} {k}" for n, k in zip(artwork.names, artwork.kinds, strict=True)]
    return [
        more if len(name_pieces(more)) <= LONGEST else name
        for more, name in zip(longer, artwork.names, strict=True)
    ]


def choose_forms(count: int, rng: np.random.Generator) -> Tensor:
    """Which of the three forms of a caption each of `count` pictures is trained with."""
    shares = (1 - OTHER_NAME - WITH_KIND, OTHER_NAME, WITH_KIND)
    return torch.from_numpy(rng.choice(3, size=count, p=shares))


class Text(nn.Module):
    """Both text encoders as the pipeline calls them."""

    def __init__(self, tokens: CLIPTokenizer) -> None:
        super().__init__()
        encoders = [models.text_encoder(tokens) for _ in range(2)]
        for encoder in encoders:  # on a CPU, gradients of the fused attention are slow
            encoder.set_attn_implementation("eager")
        self.encoders = nn.ModuleList(encoders)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids `[N, 16]` -> features `[N, 16, 256]` and pooled `[N, 256]`."""
        found: list[Any] = [each(ids, output_hidden_states=True) for each in self.encoders]
        features = torch.cat([each.hidden_states[-2] for each in found], dim=-1)
        return features, torch.cat([each.text_embeds for each in found], dim=-1)


class Sketch(nn.Module):
    """A linear thumbnail of the picture after each output of the text encoders."""

    def __init__(self) -> None:
        super().__init__()
        pixels, width = 3 * THUMBNAIL**2, 2 * models.TEXT_WIDTH
        self.from_features = nn.Linear(LENGTH * width, pixels)
        self.from_pooled = nn.Linear(width, pixels)

    def forward(self, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """What the text encoders give -> two thumbnails `[N, 768]` in -1..1."""
        return self.from_features(features.flatten(1)), self.from_pooled(pooled)


def train_text(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Teach the text encoders to tell the emoji apart by their looks before pictures are drawn."""
    items = trained_items(len(artwork.names))
    tokens = make_tokenizer(artwork)
    ids, thumbnails = caption_ids(artwork, items, tokens), draw_thumbnails(artwork, items)
    torch.manual_seed(1)
    net = nn.ModuleDict({"text": Text(tokens), "sketch": Sketch()})
    trainer = Trainer("text", net, COURSE, run)

    def loss() -> Tensor:
        chosen = torch.from_numpy(trainer.rng.integers(len(items), size=BATCH))
        given = ids[choose_forms(BATCH, trainer.rng), chosen]
        return sketch_loss(net["text"], net["sketch"], given, thumbnails[chosen])

    trainer.fit(loss, minutes=minutes)


def sketch_loss(text: Any, sketch: Any, ids: Tensor, thumbnails: Tensor) -> Tensor:
    """Squared errors of the sketches of these captions."""
    with products():
        sketches = sketch(*text(ids))
    errors = [(each.float() - thumbnails.float()).square().mean() for each in sketches]
    return torch.stack(errors).sum()


def draw_thumbnails(artwork: Artwork, items: Items) -> Tensor:
    """Every picture at 16x16, `[N, 768]` bfloat16 in -1..1."""
    rng, parts, edge = np.random.default_rng(0), [], SIZE // THUMBNAIL
    for start in range(0, len(items), 1024):
        pixels = compose(artwork, items[start : start + 1024], rng, shift=0)
        blocks = pixels.reshape(len(pixels), THUMBNAIL, edge, THUMBNAIL, edge, 3)
        small = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(pixels), -1)
        parts.append(torch.from_numpy(small / 127.5 - 1).bfloat16())
    return torch.cat(parts)
