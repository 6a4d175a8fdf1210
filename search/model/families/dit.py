"""Class-conditional diffusion transformers (DiT): blocks, guidance, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.core.prompt import PromptField, PromptInput, class_number
from search.core.subnet import Granularity
from search.model.replaced import replaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from search.model.family import Request
    from search.model.pipeline import Pipeline

LAYERS = frozenset({"BasicTransformerBlock", "Attention", "FeedForward"})
NO_CLASS = 1000
"""The label that `DiTPipeline` gives for "no class"."""


class ClassConditionalDiT:
    """`DiTPipeline`: class label to image."""

    pipeline = "DiTPipeline"
    component = "transformer"
    sample = "hidden_states"
    timestep = "timestep"
    default_prompt = "0"
    scales_latents = False
    steps_latents = False

    def blocks(self, denoiser: Any, granularity: Granularity) -> list[str]:
        """Stage and branch: each transformer block; layer: with its attention and feed-forward."""
        if granularity is Granularity.LAYER:
            return [n for n, m in denoiser.named_modules() if type(m).__name__ in LAYERS]
        return [f"transformer_blocks.{i}" for i in range(len(denoiser.transformer_blocks))]

    def is_branch(self, module: Any) -> bool:
        """Attention and feed-forward are residual branches."""
        return type(module).__name__ in ("Attention", "FeedForward")

    def predict(self, output: Tensor, channels: int, guidance: Tensor | None) -> Tensor:
        """Halves of the batch: with the class, without it; learned variances are dropped."""
        output = output[:, :channels]
        if guidance is None:
            return output
        with_class, without = output.chunk(2)
        return without + guidance * (with_class - without)

    def call(self, pipe: Any, request: Request, generator: torch.Generator | None) -> Any:
        """Run `DiTPipeline`, which takes no latents: the noise it draws is replaced by ours."""
        labels = [
            class_number(prompt, pipe.labels, self.classes(pipe))
            for prompt in request.prompts
            for _ in range(request.images)
        ]

        def draw(*args: Any, **kwargs: Any) -> Any:
            if request.latents is None:
                return original(*args, **kwargs)
            return request.latents.to(device=kwargs["device"], dtype=kwargs["dtype"])

        from diffusers.pipelines.dit import pipeline_dit

        original = pipeline_dit.randn_tensor
        with replaced(pipeline_dit, "randn_tensor", draw):
            return pipe(
                class_labels=labels,
                guidance_scale=request.guidance,
                num_inference_steps=request.steps,
                generator=generator,
                output_type=request.output,
            ).images

    def classes(self, pipe: Any) -> int:
        """How many there are."""
        return min(int(pipe.transformer.config.num_embeds_ada_norm), NO_CLASS)

    def conditioner(self, pipeline: Pipeline, request: Request) -> LabelConditioner:
        """The label and, with guidance, the label for no class."""
        classes = self.classes(pipeline.pipe)
        return LabelConditioner(classes, guided=request.guidance > 1, images=request.images)


class LabelConditioner(nn.Module):
    """A label and, guided, the label for no class."""

    def __init__(self, classes: int, *, guided: bool, images: int) -> None:
        super().__init__()
        self.inputs = [PromptInput("label", "prompt", PromptField.LABEL, classes=classes)]
        self.tokenizers: dict[str, Tokenizer] = {}
        self.guided, self.images = guided, images

    def forward(self, label: Tensor) -> dict[str, Tensor]:
        """A label `[1]` -> labels `[2 * images]` or `[images]`."""
        labels = torch.cat([label, torch.full_like(label, NO_CLASS)]) if self.guided else label
        return {"class_labels": labels.repeat_interleave(self.images)}
