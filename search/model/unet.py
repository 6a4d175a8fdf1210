"""U-Nets of Stable Diffusion 1.x and 2.x: blocks, guidance, prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.errors import SearchError
from search.prompt import PromptInput
from search.subnet import Granularity

LAYERS = frozenset(
    {
        "ResnetBlock2D",
        "Transformer2DModel",
        "BasicTransformerBlock",
        "Attention",
        "FeedForward",
        "Downsample2D",
        "Upsample2D",
    }
)
"""Classes of the modules that are blocks at layer granularity."""

if TYPE_CHECKING:
    from collections.abc import Iterator

    from search.model.family import Request


class StableDiffusion:
    """`StableDiffusionPipeline`: text to image with one CLIP text encoder."""

    pipeline = "StableDiffusionPipeline"
    component = "unet"
    sample = "sample"
    timestep = "timestep"
    default_prompt = ""
    scales_latents = True

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """See `unet_blocks`."""
        if denoiser.config.time_cond_proj_dim is not None:
            msg = (
                "U-Nets distilled for a guidance embedding (time_cond_proj_dim, as in LCM) are not "
                "supported; use one without"
            )
            raise SearchError(msg)
        return unet_blocks(denoiser, granularity)

    def predict(self, output: Tensor, channels: int, guidance: Tensor | None) -> Tensor:
        """Halves of the batch: without the prompt, with it."""
        del channels
        if guidance is None:
            return output
        without, with_prompt = output.chunk(2)
        return without + guidance * (with_prompt - without)

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run `StableDiffusionPipeline`."""
        return pipe(
            prompt=list(request.prompts),
            negative_prompt=[request.negative] * len(request.prompts) if request.guided else None,
            guidance_scale=request.guidance,
            num_inference_steps=request.steps,
            latents=request.latents,
            generator=generator,
            height=request.height,
            width=request.width,
            output_type="np",
        ).images

    def prompt_inputs(self, pipe: Any, *, guided: bool) -> list[PromptInput]:
        """Token ids of the negative prompt (with guidance) and of the prompt."""
        length = pipe.tokenizer.model_max_length
        names = ["negative", "prompt"] if guided else ["prompt"]
        return [PromptInput(name=f"{name}_ids", source=name, length=length) for name in names]

    def conditioner(self, pipe: Any, *, guided: bool, batch: int) -> nn.Module:
        """The text encoder over both prompts."""
        del guided
        return _TextConditioner(pipe.text_encoder, batch)


class _TextConditioner(nn.Module):
    def __init__(self, text_encoder: nn.Module, batch: int) -> None:
        super().__init__()
        if getattr(text_encoder.config, "use_attention_mask", False):
            msg = "text encoders with use_attention_mask are not supported; use one without"
            raise SearchError(msg)
        self.text_encoder, self.batch = text_encoder, batch

    def forward(self, *ids: Tensor) -> dict[str, Tensor]:
        """Token ids `[1, L]` each -> hidden states `[len(ids) * batch, L, width]`."""
        states = self.text_encoder(torch.cat(ids))[0]
        return {"encoder_hidden_states": states.repeat_interleave(self.batch, dim=0)}


def unet_blocks(denoiser: Any, granularity: Granularity) -> list[str]:
    """Blocks of any diffusers U-Net with `down_blocks`, `mid_block` and `up_blocks`.

    stage: each of these; branch: each pair of a ResNet and the attention behind it, gated at its last
    module, each sampler, and the middle; layer: every ResNet, transformer, attention, feed-forward
    and sampler.
    """
    if granularity is Granularity.LAYER:
        return [n for n, m in denoiser.named_modules() if type(m).__name__ in LAYERS]
    stages = list(_stages(denoiser))
    if granularity is Granularity.STAGE:
        return stages
    names = []
    for stage in stages:
        if stage == "mid_block":
            names.append(stage)
            continue
        module = denoiser.get_submodule(stage)
        last = "attentions" if len(getattr(module, "attentions", None) or ()) else "resnets"
        for part in (last, "downsamplers", "upsamplers"):
            names += [f"{stage}.{part}.{i}" for i in range(len(getattr(module, part, None) or ()))]
    return names


def _stages(denoiser: Any) -> Iterator[str]:
    yield from (f"down_blocks.{i}" for i in range(len(denoiser.down_blocks)))
    if denoiser.mid_block is not None:
        yield "mid_block"
    yield from (f"up_blocks.{i}" for i in range(len(denoiser.up_blocks)))
