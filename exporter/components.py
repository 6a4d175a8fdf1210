"""What stands around the denoiser as ONNX: prompts to conditions, and latents to pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from exporter.graph import convert, optimise
from search.model.decoder import Decoder
from search.names import IMAGE, LATENTS

if TYPE_CHECKING:
    import onnx_ir as ir

    from search.model.pipeline import Pipeline
    from search.prompt import PromptInput


@dataclass(frozen=True)
class Component:
    """A graph beside the denoiser's.

    Attributes:
        model: the graph.
        weights: its initializers that belong in the weights file.
        outputs: names of its outputs.
    """

    model: ir.Model
    weights: list[ir.Value]
    outputs: tuple[str, ...]


def conditioner_graph(
    pipeline: Pipeline,
    inputs: list[PromptInput],
    *,
    guided: bool,
    batch: int,
    dtype: str = "float32",
) -> Component:
    """Prompt inputs -> the denoiser's conditions in `dtype`, under the names the step graphs know."""
    conditioner = pipeline.family.conditioner(pipeline.pipe, guided=guided, batch=batch)
    module = _Converted(conditioner, getattr(torch, dtype)).eval()
    example = tuple(
        torch.zeros(1, i.length, dtype=torch.int64)
        if i.length
        else torch.zeros(1, dtype=torch.int64)
        for i in inputs
    )
    with torch.no_grad():
        names = list(module(*example))
    return _component("condition", module, example, [i.name for i in inputs], names)


class _Converted(torch.nn.Module):
    """A conditioner whose floating-point outputs have another dtype."""

    def __init__(self, conditioner: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.conditioner, self.dtype = conditioner, dtype

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in self.conditioner(*inputs).items()
        }


def decoder_graph(pipeline: Pipeline, latent_shape: tuple[int, ...]) -> Component:
    """Latents `[B, C, H, W]` -> pictures `[B, 3, height, width]` in 0..1."""
    module = Decoder(pipeline.pipe.vae)
    return _component("decode", module, (torch.zeros(latent_shape),), [LATENTS], [IMAGE])


def padded_tokenizer(tokenizer: Any) -> Tokenizer:
    """The fast tokenizer behind a transformers tokenizer, set to pad and cut to the full length."""
    length = tokenizer.model_max_length
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.enable_truncation(length)
    copy.enable_padding(length=length, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return copy


def _component(
    name: str,
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[str],
    outputs: list[str],
) -> Component:
    with torch.no_grad():
        model = convert(torch.export.export(module, example, strict=False))
    model.graph.name = name
    for value, label in zip(model.graph.inputs, inputs, strict=True):
        value.name = label
    weights = optimise(model, name)
    for value, label in zip(model.graph.outputs, outputs, strict=True):
        value.name = label
    return Component(model, weights, tuple(outputs))
