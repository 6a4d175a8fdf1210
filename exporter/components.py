"""The two ends of a pipeline as ONNX: prompts to conditions, and latents to pictures."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from onnx_ir.passes import common as passes
from torch import Tensor
from torch.utils._pytree import tree_leaves_with_path

from exporter.errors import ExportError
from exporter.graph import convert, forget_inner_types, optimise
from exporter.group_norm import decompose_group_norms
from exporter.quantise import quantise_weights
from search.core.names import IMAGE, LATENTS
from search.core.precision import precision_named
from search.core.prompt import PromptField
from search.model.answers import Answers, asks_for_values
from search.model.decoder import Decoder
from search.model.encoder import Encoder

SHORT = "a red circle"
"""A text that no pipeline pads to nothing, and none has to cut."""
_Example = tuple[Tensor, ...]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir
    from torch.export import ExportedProgram

    from search.core.prompt import PromptInput
    from search.core.quantisation import Scheme
    from search.model.family import Conditioner
    from search.model.pipeline import Pipeline

    RoundedWeights = Mapping[int, Scheme]
    """Weights that are stored in few bits: the `id` of the parameter -> how."""


@dataclass(frozen=True)
class Component:
    """A graph beside the denoiser's.

    Attributes:
        model: the graph.
        outputs: names of its outputs.
    """

    model: ir.Model
    outputs: tuple[str, ...]


def conditioner_graph(
    conditioner: Conditioner, dtype: str, rounded: RoundedWeights = MappingProxyType({})
) -> Component:
    """Prompt inputs -> the denoiser's conditions in `dtype`, under the names the step graphs know."""
    module = _Converted(conditioner.eval(), getattr(torch, precision_named(dtype).torch)).eval()
    ones = tuple(
        torch.ones(each.shape, dtype=getattr(torch, each.dtype)) for each in conditioner.inputs
    )
    texts = tuple(
        tokenised(conditioner, each, one)
        for each, one in zip(conditioner.inputs, ones, strict=True)
    )
    with torch.no_grad():
        names = list(module(*texts))
    labels = [each.name for each in conditioner.inputs]
    made = _component("condition", module, (texts, ones), labels, names, rounded)
    loose = [v.name for v in made.model.graph.outputs if v.shape is None or not v.shape.is_static()]
    if loose:
        msg = (
            f"the conditions {loose} are as long as the text, but a graph has one fixed length, so "
            f"{_instead(conditioner)}"
        )
        raise ExportError(msg)
    return made


def _instead(conditioner: Conditioner) -> str:
    """What to do about a text whose length counts."""
    switches = getattr(conditioner, "switches", ())
    if not switches:
        return "such pipelines are not supported"
    return f"try what its call can switch off: --call {switches[0]}=false"


def tokenised(
    conditioner: Conditioner, each: PromptInput, otherwise: Tensor, text: str = SHORT
) -> Tensor:
    """What a text is as an input; `otherwise` where that takes no text."""
    if each.tokenizer not in conditioner.tokenizers:
        return otherwise
    tokenizer = conditioner.tokenizers[each.tokenizer]
    tokens = tokenizer.encode(each.written(text), add_special_tokens=each.special)
    seen = [1] * len(tokens) if each.multiple else tokens.attention_mask
    values = tokens.ids if each.fill is PromptField.IDS else seen
    made = torch.zeros_like(otherwise)
    made[0, : len(values)] = torch.tensor(values)
    return made


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


def decoder_graph(
    pipeline: Pipeline,
    latent_shape: tuple[int, ...],
    size: tuple[int, ...],
    rounded: RoundedWeights = MappingProxyType({}),
) -> Component:
    """Latents `[B, ...]` -> pictures `[B, 3, height, width]` of `size` in 0..1."""
    module = Decoder(pipeline, size)
    example = (torch.zeros(latent_shape),)
    return _component("decode", module, (example,), [LATENTS], [IMAGE], rounded)


def encoder_graph(
    pipeline: Pipeline,
    size: tuple[int, ...],
    images: int,
    rounded: RoundedWeights = MappingProxyType({}),
) -> tuple[Component, tuple[PromptInput, ...]]:
    """A picture and noises -> clean latents `[images, ...]`, and what the graph takes."""
    module = Encoder(pipeline, size, images)
    example = tuple(torch.ones(each.shape) for each in module.inputs)
    names = [each.name for each in module.inputs]
    made = _component("encode", module, (example,), names, [LATENTS], rounded)
    return made, tuple(module.inputs)


def _exported(module: torch.nn.Module, examples: Sequence[_Example]) -> ExportedProgram:
    """The module as a program.

    Where diffusers asks tensors for values that a trace does not know, they are those of a run on the
    first of the examples with whose values the program does the same as the module on all.
    """
    try:
        return torch.export.export(module, examples[0], strict=False)
    except Exception as error:
        if not asks_for_values(error):
            raise
    for example in examples:
        answers = Answers()
        with answers.recorded():
            module(*example)
        with answers.repeated():
            program = torch.export.export(module, example, strict=False)
        if all(_agree(program, module, each) for each in examples if each is not example):
            return program
    msg = (
        "the text encoders follow another path for other text lengths, because diffusers reads "
        "the values of a mask; such pipelines are not supported"
    )
    raise ExportError(msg)


def _agree(program: ExportedProgram, module: torch.nn.Module, example: _Example) -> bool:
    """Whether a program gives what its module does; a mask of all tokens is as good as none."""
    made, given = (
        dict(tree_leaves_with_path(each(*example))) for each in (program.module(), module)
    )
    masks = [made[path] for path in made.keys() - given.keys()]
    return given.keys() <= made.keys() and all(
        [
            *(mask.dtype is torch.bool and bool(mask.all()) for mask in masks),
            *(
                made[path].shape == tensor.shape
                and torch.allclose(made[path], tensor, rtol=1e-3, atol=1e-4)
                for path, tensor in given.items()
            ),
        ]
    )


def _component(
    name: str,
    module: torch.nn.Module,
    examples: Sequence[_Example],
    inputs: list[str],
    outputs: list[str],
    rounded: RoundedWeights,
) -> Component:
    with torch.no_grad():
        program = _exported(module, examples)
        model = convert(program)
    model.graph.name = name
    for value, label in zip(model.graph.inputs, inputs, strict=True):
        value.name = label
    decompose_group_norms(model.graph)
    passes.CommonSubexpressionEliminationPass()(model)
    optimise(model, program.state_dict)
    named = module.named_parameters(remove_duplicate=False)
    quantise_weights(model.graph, {n: rounded[id(p)] for n, p in named if id(p) in rounded})
    forget_inner_types(model.graph)
    for value, label in zip(model.graph.outputs, outputs, strict=True):
        value.name = label
    return Component(model, tuple(outputs))
