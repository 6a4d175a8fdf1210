"""Checks that a conditioner encodes a short and a longer text as its pipeline does.

It is traced with texts of one length. If the pipeline's call does more with a text than was recorded, such
as padding it to another length, the conditions differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exporter.components import SHORT, tokenised
from exporter.errors import ExportError
from search.core.prompt import PromptField
from search.model.recording import record_conditions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from search.core.prompt import PromptInput
    from search.model.family import Conditioner, Request
    from search.model.fixed_texts import FixedTexts
    from search.model.pipeline import Pipeline

LONG = (
    "a small red circle on a wide blue field under an old stone bridge at night, seen from far away"
)
CLOSE = 0.02
"""The largest relative L2 of conditions, which encoders in half precision round."""
_OF_TEXTS = {PromptField.IDS, PromptField.MASK, PromptField.GIVEN, PromptField.QUOTED}


def require_own_encoding(
    pipeline: Pipeline, conditioner: Conditioner, request: Request, reads: Collection[str]
) -> None:
    """Refuse a conditioner that encodes a short or a longer text otherwise than its pipeline.

    One that takes more than texts, such as pictures, is not checked.

    Args:
        pipeline: whose call encodes too.
        conditioner: made for `request`.
        request: its texts are replaced.
        reads: names of the conditions that matter.

    Raises:
        ExportError: the conditions differ.
    """
    inputs = conditioner.inputs
    if not any(each.tokenizer for each in inputs) or any(i.fill not in _OF_TEXTS for i in inputs):
        return
    cls = type(pipeline.pipe).__name__
    texts: FixedTexts | None = getattr(conditioner, "texts", None)
    for text in dict.fromkeys((SHORT, _fitting(conditioner, LONG))):
        wanted = replace(request, prompts=(text,) * len(request.prompts), negative=text)
        given = [_input(conditioner, each, text) for each in inputs]
        with torch.no_grad():
            own = record_conditions(pipeline, wanted, torch.Generator())
            made = conditioner.eval()(*given)
        if texts is not None:
            own = texts_alone(own, made, texts, _padding(inputs, given))
        known = own.keys() & set(reads)
        hidden = [
            tensor[0] == 0
            for each, tensor in zip(inputs, given, strict=True)
            if each.fill is PromptField.MASK
        ]
        off = sorted(
            name
            for name in known
            if name not in made
            or not (is_in(made[name], own[name]) or is_padding(made[name], own[name], hidden))
        )
        if off:
            msg = (
                f"for the prompt {text!r} the bundle would make other conditions {off} than a "
                f"{cls} itself, whose text encoding does not fit a graph of one length; such "
                "pipelines are not supported"
            )
            raise ExportError(msg)


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

    Nothing else of such a pipeline is compared, such as masks: `padding_trial.py` has tried the network.
    """
    found = {}
    for name, (axis, source) in texts.axes.items():
        if name in own and source in padding:
            size = own[name].shape[axis]
            count = min(size, made[name].shape[axis] - padding[source])
            first, last = (own[name].narrow(axis, at, count) for at in (0, size - count))
            found[name] = first if is_in(made[name], first) else last
    return found


def _input(conditioner: Conditioner, each: PromptInput, text: str) -> Tensor:
    """An input for a text without quoted words."""
    fill = torch.full(each.shape, int(each.fill is not PromptField.QUOTED), dtype=torch.int64)
    return tokenised(conditioner, each, fill, text)


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
