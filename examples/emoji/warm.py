"""Begin a training from the weights of a pipeline directory, where no checkpoint is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import AutoencoderKL, SD3Transformer2DModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from examples.emoji.artwork import ArtworkError
from examples.emoji.flow import START, Flow
from examples.emoji.text import make_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from examples.emoji.artwork import Artwork


def begin_from(pipeline: Path, artwork: Artwork, run: Path) -> None:
    """Write what the stages `latents`, `flow` and `decoder` begin with; optimisers begin anew."""
    if run.exists() and list(run.glob("*.safetensors")):
        msg = f"{str(run)!r} holds checkpoints, which are better than weights; leave --warm away"
        raise ArtworkError(msg)
    run.mkdir(parents=True, exist_ok=True)
    net = Flow(make_tokenizer(artwork))
    for number, encoder in enumerate(net.text.encoders):
        name = "text_encoder" if number == 0 else "text_encoder_2"
        trained = CLIPTextModelWithProjection.from_pretrained(pipeline / name)
        encoder.load_state_dict(trained.state_dict())
    transformer = SD3Transformer2DModel.from_pretrained(pipeline / "transformer")
    net.transformer.load_state_dict(transformer.state_dict())
    _write(net, run, START)
    _write(AutoencoderKL.from_pretrained(pipeline / "vae"), run, "autoencoder")


def _write(module: nn.Module, run: Path, name: str) -> None:
    tensors = {f"average.{k}": v.float().contiguous() for k, v in module.state_dict().items()}
    save_file(tensors, run / f"{name}.safetensors")
