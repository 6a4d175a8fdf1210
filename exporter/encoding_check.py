"""Checks that a conditioner encodes a short and a longer text as its pipeline does.

It is traced with texts of one length. If the pipeline's call does more with a text than was recorded, such
as padding it to another length, the conditions differ.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.autoencoders import vae
from torch import Tensor, nn

from exporter.components import SHORT, tokenised
from exporter.errors import ExportError
from search.core.pictures import example_picture, values_of
from search.core.prompt import PromptField
from search.model.live_lora import scaled
from search.model.recording import record_conditions
from search.model.replaced import replaced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from PIL import Image

    from search.core.prompt import PromptInput
    from search.model.family import Conditioner, Request
    from search.model.fixed_texts import FixedTexts
    from search.model.pipeline import Pipeline

LONG = (
    "a small red circle on a wide blue field under an old stone bridge at night, seen from far away"
)
CLOSE = 0.02
"""The largest relative L2 of conditions, which encoders in half precision round."""
SCALE = 0.5
"""Of LoRAs beside the weights, in both."""


def unlike_encodings(
    pipeline: Pipeline, conditioner: Conditioner, request: Request
) -> dict[str, str]:
    """The conditions that a conditioner makes otherwise than its pipeline of a short or a longer text.

    Both are given the same pictures, noises and scales of LoRAs.

    Args:
        pipeline: whose call encodes too.
        conditioner: made for `request`.
        request: its texts are replaced.

    Returns:
        Name of the condition -> the text.
    """
    inputs = conditioner.inputs
    if not any(each.tokenizer for each in inputs):
        return {}
    texts: FixedTexts | None = getattr(conditioner, "texts", None)
    pictures = {i.source: _picture(i) for i in inputs if i.fill is PromptField.PICTURE}
    others = {each.name: _without_text(each, pictures) for each in inputs}
    unlike: dict[str, str] = {}
    for text in dict.fromkeys((SHORT, _fitting(conditioner, LONG))):
        prompts = (text,) * len(request.prompts)
        wanted = replace(request, prompts=prompts, negative=text, pictures=pictures or None)
        given = [tokenised(conditioner, each, others[each.name], text) for each in inputs]
        with torch.no_grad():
            own = _own_conditions(pipeline, wanted, inputs)
            made = conditioner.eval()(*given)
        if texts is not None:
            own = texts_alone(own, made, texts, _padding(inputs, given))
        hidden = [
            tensor[0] == 0
            for each, tensor in zip(inputs, given, strict=True)
            if each.fill is PromptField.MASK
        ]
        for name, tensor in own.items():
            if name in made and (
                is_in(made[name], tensor) or is_padding(made[name], tensor, hidden)
            ):
                continue
            unlike.setdefault(name, text)
    return unlike


def require_own_encoding(pipe: Any, unlike: Mapping[str, str], reads: Collection[str]) -> None:
    """Refuse a conditioner that encodes a text otherwise than its pipeline.

    Args:
        pipe: of diffusers.
        unlike: what `unlike_encodings` has found.
        reads: names of the conditions that matter.

    Raises:
        ExportError: one of them differs.
    """
    off = sorted(unlike.keys() & set(reads))
    if off:
        msg = (
            f"for the prompt {unlike[off[0]]!r} the bundle would make other conditions {off} than a "
            f"{type(pipe).__name__} itself, whose encoding does not fit a graph of one length; such "
            "pipelines are not supported"
        )
        raise ExportError(msg)


def _own_conditions(
    pipeline: Pipeline, request: Request, inputs: Sequence[PromptInput]
) -> dict[str, Tensor]:
    """What the pipeline makes of a request, with LoRAs at `SCALE` and noises of `_noise`."""
    scales = {i.source: torch.full((1,), SCALE) for i in inputs if i.fill is PromptField.SCALE}
    parts = [part for part in pipeline.pipe.components.values() if isinstance(part, nn.Module)]
    noises = {each.name: each for each in inputs if each.fill is PromptField.NOISE}
    count = itertools.count()

    def drawn(*_: Any, **__: Any) -> Tensor:
        return _noise(noises[f"noise_{next(count)}"])

    with scaled(parts, scales), replaced(vae, "randn_tensor", drawn):
        return record_conditions(pipeline, request, torch.Generator())


def _padding(inputs: Sequence[PromptInput], given: Sequence[Tensor]) -> dict[str, int]:
    """How many tokens of each text its mask hides, where the pipeline fills texts up to a multiple."""
    masks = {
        each.source: tensor
        for each, tensor in zip(inputs, given, strict=True)
        if each.fill is PromptField.MASK and each.multiple
    }
    return {source: mask.shape[1] - int(mask.sum()) for source, mask in masks.items()}


def texts_alone(
    own: Mapping[str, Tensor],
    made: Mapping[str, Tensor],
    texts: FixedTexts,
    padding: Mapping[str, int],
) -> dict[str, Tensor]:
    """The encoded texts among a pipeline's conditions, without the pipeline's own padding at either end.

    Of the other conditions, only those without an axis as long as a text are compared, such as pooled ones.
    Masks and positions are not: `padding_trial.py` has tried the network.
    """
    lengths = {
        conditions[name].shape[axis]
        for conditions in (own, made)
        for name, (axis, _) in texts.axes.items()
        if name in conditions
    }
    found = {
        name: tensor
        for name, tensor in own.items()
        if name not in texts.axes and tensor.is_floating_point() and not lengths & {*tensor.shape}
    }
    for name, (axis, source) in texts.axes.items():
        if name in own and source in padding:
            size = own[name].shape[axis]
            count = min(size, made[name].shape[axis] - padding[source])
            first, last = (own[name].narrow(axis, at, count) for at in (0, size - count))
            found[name] = first if is_in(made[name], first) else last
    return found


def _picture(each: PromptInput) -> Image.Image:
    """A picture that becomes an input without being resized."""
    height, width = (each.shortest,) * 2 if each.shortest else each.dims[-2:]
    return example_picture(height, width, each.source)


def _without_text(each: PromptInput, pictures: Mapping[str, Image.Image]) -> Tensor:
    """An input that takes no tokens, for a text without quoted words."""
    match each.fill:
        case PromptField.PICTURE:
            picture = pictures[each.source]
            return torch.from_numpy(values_of(picture, each.source, each.dims, each.shortest))
        case PromptField.NOISE:
            return _noise(each)
        case PromptField.SCALE:
            return torch.full(each.shape, SCALE)
    return torch.full(each.shape, int(each.fill is not PromptField.QUOTED), dtype=torch.int64)


def _noise(each: PromptInput) -> Tensor:
    """The numbers of a noise."""
    seed = zlib.crc32(each.name.encode())
    return torch.randn(each.shape, generator=torch.Generator().manual_seed(seed))


def _fitting(conditioner: Conditioner, text: str) -> str:
    """As many words of a text as no tokenizer truncates."""
    words = text.split()
    while len(words) > 1 and any(
        _is_cut(conditioner, each, " ".join(words)) for each in conditioner.inputs
    ):
        words.pop()
    return " ".join(words)


def _is_cut(conditioner: Conditioner, each: PromptInput, text: str) -> bool:
    """Whether the tokenizer of an input truncates a text."""
    if each.tokenizer not in conditioner.tokenizers:
        return False
    tokenizer = conditioner.tokenizers[each.tokenizer]
    return bool(tokenizer.encode(each.written(text), add_special_tokens=each.special).overflowing)


def is_in(made: Tensor, own: Tensor) -> bool:
    """Whether a condition is a pipeline's own, or has it before or behind padding along one axis.

    Integers of another length, such as positions, pass: `padding_trial.py` has tried the network with them.
    """
    if made.shape == own.shape:
        return _is_close(made, own)
    axes = [
        n for n, sizes in enumerate(zip(made.shape, own.shape, strict=False)) if len(set(sizes)) > 1
    ]
    if made.ndim != own.ndim or len(axes) != 1:
        return False
    [axis] = axes
    length = own.shape[axis]
    if made.shape[axis] < length:
        return False
    if not own.is_floating_point():
        return True
    places = range(made.shape[axis] - length + 1)
    return any(_is_close(made.narrow(axis, place, length), own) for place in places)


def is_padding(made: Tensor, own: Tensor, hidden: Iterable[Tensor]) -> bool:
    """Whether two encoded texts `[..., T, D]` differ in padding alone.

    Args:
        made: by the conditioner.
        own: by the pipeline.
        hidden: bool `[L]`, the tokens that the mask of a text hides; the encoded text begins or ends with it.
    """
    if made.shape != own.shape or own.ndim < 3 or not own.is_floating_point():
        return False
    off = (made - own).norm(dim=-1) > CLOSE * own.norm(dim=-1)
    length = off.shape[-1]
    either_end = ((h[:length], h[-length:]) for h in hidden if len(h) >= length)
    return any(not (off & ~h).any() for ends in either_end for h in ends)


def _is_close(made: Tensor, own: Tensor) -> bool:
    made, own = made.double(), own.double()
    return bool((made - own).norm() <= CLOSE * own.norm())
