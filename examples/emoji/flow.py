"""Train the transformer, with its text encoders, to carry noise to pictures in straight lines."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from examples.emoji import models
from examples.emoji.artwork import SIZE
from examples.emoji.autoencoding import to_tensor
from examples.emoji.pictures import SHIFT, compose, trained_items
from examples.emoji.precision import products
from examples.emoji.text import (
    Sketch,
    Text,
    caption_ids,
    choose_forms,
    draw_thumbnails,
    make_tokenizer,
    sketch_loss,
)
from examples.emoji.trainer import Course, Trainer, load_average, read_record

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import CLIPTokenizer

    from examples.emoji.artwork import Artwork

BATCH = 32
PIXELS = SIZE // models.LATENT_SIZE
"""Of the picture, in one of the latents: how far `moved` moves it."""
SKETCHES = 96
"""Further captions in a batch, of which only the text encoders learn: sixteen times cheaper."""
DROP_CAPTION = 0.1
NOISE_MEAN, NOISE_DEVIATION = 0.5, 1.0
"""Of the logit of the noise level: most of it where it is decided what the picture shows."""
T5_TOKENS = 256
"""What StableDiffusion3Pipeline pads the text of its T5 encoder to, unless it is told otherwise."""
WITH_ALL_TOKENS = 0.25
"""Share of the training pictures that see so many; the others see one."""
START = "start"
"""Name of the weights that the flow begins with, where `warm` has put some."""
COURSE = Course(rate=1e-3, steps=1_000_000, warmup=200, average=0.9995)


@dataclass(frozen=True)
class Latents:
    """Encoded pictures.

    Attributes:
        values: `[N, 8, 16, 16]` float16, of mean 0 and deviation 1.
        shift: mean of what the encoder gives.
        scale: one over its deviation.
    """

    values: Tensor
    shift: float
    scale: float


def encode_latents(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Encode one picture of every emoji, style and trained background."""
    del minutes
    vae: Any = load_average("autoencoder", models.autoencoder(), run).eval()
    items, rng, found = trained_items(len(artwork.names)), np.random.default_rng(2), []
    for start in range(0, len(items), 256):
        pictures = compose(artwork, items[start : start + 256], rng, shift=SHIFT - PIXELS)
        images = to_tensor(pictures)
        with torch.no_grad(), products():
            found.append(vae.encode(images).latent_dist.mean.float())
    latents = torch.cat(found)
    shift, scale = latents.mean(), 1 / latents.std()
    values = ((latents - shift) * scale).half().contiguous()
    tensors = {"values": values, "shift": shift, "scale": scale}
    save_file(tensors, run / "latents.safetensors")


def read_latents(run: Path) -> Latents:
    """What `encode_latents` wrote."""
    with safe_open(run / "latents.safetensors", framework="pt") as file:
        shift, scale = (file.get_tensor(name).item() for name in ("shift", "scale"))
        return Latents(file.get_tensor("values"), round(shift, 6), round(scale, 6))


class CountedAttention:
    """The joint attention of SD3 in which the last text token stands for any number of equal ones.

    Our T5 encoder is empty: all its tokens are zeros. Text has no positions in SD3, so they stay
    equal from block to block, and one of them with the logarithm of their number added to its logits
    does what all would do. Training with all 256 would be four times as slow.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Attention of image `[N, P, D]` and text `[N, L, D]`; `bias` is `[N, 1, 1, P + L]`."""
        del attention_mask

        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], attn.heads, -1).transpose(1, 2)

        image, text = hidden_states, encoder_hidden_states
        query = [
            attn.norm_q(heads(attn.to_q(image))),
            attn.norm_added_q(heads(attn.add_q_proj(text))),
        ]
        key = [
            attn.norm_k(heads(attn.to_k(image))),
            attn.norm_added_k(heads(attn.add_k_proj(text))),
        ]
        value = [heads(attn.to_v(image)), heads(attn.add_v_proj(text))]
        # Plain products: on a CPU, gradients of the fused attention are slow.
        q, k, v = (torch.cat(parts, dim=2) for parts in (query, key, value))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = (scores + bias.to(scores.dtype)).softmax(dim=-1)
        output = (weights @ v).transpose(1, 2).flatten(2)
        seen, read = output.split([image.shape[1], text.shape[1]], dim=1)
        return attn.to_out[0](seen), read if attn.context_pre_only else attn.to_add_out(read)


class Flow(nn.Module):
    """Text encoders, with their sketches, and transformer as they are trained together."""

    def __init__(self, tokens: CLIPTokenizer) -> None:
        super().__init__()
        self.text, self.sketch, self.transformer = Text(tokens), Sketch(), models.transformer()
        self.transformer.set_attn_processor(CountedAttention())

    def forward(self, noisy: Tensor, noise: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
        """The velocity `[N, 8, 16, 16]`, from noise levels, token ids and numbers of T5 tokens."""
        features, pooled = self.text(ids)
        features = torch.cat([features, torch.zeros_like(features[:, :1])], dim=1)
        tokens = noisy[0, 0].numel() // 4 + features.shape[1]
        bias = torch.zeros(len(noisy), 1, 1, tokens)
        bias[..., -1] = counts.log()[:, None, None]
        output: Tensor = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=features,
            pooled_projections=pooled,
            timestep=noise * 1000,
            joint_attention_kwargs={"bias": bias},
            return_dict=False,
        )[0]
        return output


def train_flow(artwork: Artwork, run: Path, *, minutes: float | None) -> None:
    """Train on and on at one rate; the averaged weights are what is exported."""
    _train(artwork, run, "flow", COURSE, minutes)


def cool_down(artwork: Artwork, run: Path, *, minutes: float | None, steps: int) -> None:
    """Train a copy of the flow with a falling rate; the flow itself can be trained on from where it is."""
    record = read_record(run / "flow.safetensors")
    assert record is not None
    ended = record["step"] + steps
    shutil.copyfile(run / "flow.safetensors", run / "cooled.safetensors")
    _train(artwork, run, "cooled", replace(COURSE, steps=ended, cooldown=steps), minutes)


def _train(artwork: Artwork, run: Path, name: str, course: Course, minutes: float | None) -> None:
    items, tokens, latents = (
        trained_items(len(artwork.names)),
        make_tokenizer(artwork),
        read_latents(run),
    )
    ids = caption_ids(artwork, items, tokens)
    empty = tokens("", padding="max_length", return_tensors="pt").input_ids
    thumbnails = draw_thumbnails(artwork, items)
    torch.manual_seed(2)
    net = Flow(tokens)
    warm = (run / f"{START}.safetensors").exists()
    if warm:
        load_average(START, net, run)
    else:
        load_average("text", nn.ModuleDict({"text": net.text, "sketch": net.sketch}), run)
    trainer = Trainer(name, net, course, run, seed=3)

    def loss() -> Tensor:
        chosen = torch.from_numpy(trainer.rng.integers(len(items), size=BATCH))
        given = ids[choose_forms(BATCH, trainer.rng), chosen]
        given = torch.where(torch.rand(BATCH, 1) < DROP_CAPTION, empty, given)
        found = flow_loss(net, moved(latents.values[chosen].float()), given)
        if warm:  # the text encoders have learned their lesson, and its sketches are gone
            return found
        others = torch.from_numpy(trainer.rng.integers(len(items), size=SKETCHES))
        sketched = ids[choose_forms(SKETCHES, trainer.rng), others]
        return found + sketch_loss(net.text, net.sketch, sketched, thumbnails[others])

    trainer.fit(loss, minutes=minutes)


def moved(latents: Tensor) -> Tensor:
    """Each moved by a latent pixel or none, in both directions; the edge, background, is repeated."""
    size, rows = latents.shape[-1], torch.arange(len(latents))
    padded = functional.pad(latents, (1, 1, 1, 1), mode="replicate")
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)
    down, right = torch.randint(3, (2, len(latents)))
    found: Tensor = windows[rows, :, down, right]
    return found


def draw_counts(pictures: int) -> Tensor:
    """How many T5 tokens each picture is trained with, `[N]`."""
    return torch.where(torch.rand(pictures) < WITH_ALL_TOKENS, float(T5_TOKENS), 1.0)


def flow_loss(net: Flow, clean: Tensor, ids: Tensor) -> Tensor:
    """Squared error of the velocity at random noise levels (Esser et al. 2024, section 3.1)."""
    count, draw = len(clean), torch.randn_like(clean)
    noise = torch.sigmoid(NOISE_MEAN + NOISE_DEVIATION * torch.randn(count))
    at = noise[:, None, None, None]
    with products():
        velocity = net((1 - at) * clean + at * draw, noise, ids, draw_counts(count))
    error: Tensor = velocity.float() - (draw - clean)
    return error.square().mean()
