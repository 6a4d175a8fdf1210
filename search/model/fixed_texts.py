"""Texts of any length as texts of one length: a graph has one.

Some pipelines do not pad a prompt. Here padding follows its tokens, so that all texts are as long as the
longest. The text encoder's attention mask hides the padding, and the denoiser's attention is changed so
that it does not see it; `search/model/hidden_keys.py` finds where it is among the keys.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers import BatchEncoding

from search.model.parts_in_place import with_parts
from search.model.tokens import TokenizerStandIn, tokenizers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from search.model.family import Request

LIMIT = 256
"""Tokens of a prompt, without its template; a longer one is truncated."""
PROMPT, NEGATIVE = "prompt", "negative"
SOURCES = (PROMPT, NEGATIVE)


class TextAxis(NamedTuple):
    """The axis of a condition that runs over the tokens of a text.

    Attributes:
        axis: of the condition.
        source: the text.
    """

    axis: int
    source: str


class Padding(NamedTuple):
    """Where the keys of one attention have the padding of a text.

    Attributes:
        source: the text.
        ends: per row of the batch, the key at which the padding ends, or begins if it is in front;
            -1 where there is none.
    """

    source: str
    ends: tuple[int, ...]


class Filling(NamedTuple):
    """Where the network fills up a text with tokens of its own.

    Attributes:
        number: of the call of `torch.where` that inserts them.
        source: the text.
        end: of its tokens, among the first dimension's.
    """

    number: int
    source: str
    end: int


class Length(NamedTuple):
    """Where a step makes a tensor of the length of a text.

    Attributes:
        number: of the call of `torch.tensor` with whole numbers, or of `torch.arange` from one to another.
        places: the tensor's elements that decrease by as much as the text becomes shorter.
        source: the text.
    """

    number: int
    places: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class FixedTexts:
    """How all texts of a pipeline are padded to the longest.

    Attributes:
        everywhere: also for texts that the pipeline pads itself, because it reads their length as a number.
        masked: whether the tokenizer's mask marks the padding, so that the pipeline's network leaves it out.
        in_front: whether the padding is moved in front of the encoded text, for networks whose picture has
            positions that continue those of the text.
        multiple: the pipeline fills up a text to a multiple of this many tokens, which its network reads.
        filler: the token that it uses for that; None if it does not.
        leads: whether these tokens come before the text.
        most: how many tokens of a text the pipeline reads, by tokenizer, where it drops the rest.
        lengths: number of tokens of a text with its template and padding, by tokenizer.
        shortest: likewise for a short text without padding.
        axes: the conditions with an axis over the tokens of a text.
        keys: per attention of a step, in order, the padding among its keys.
        counts: where a step makes tensors of the lengths of texts.
        filled: the network fills up a text to a multiple of this many tokens, with tokens of its own.
        fills: where it does that.
        cut: by how many tokens texts are shorter than `lengths`, by source.
    """

    everywhere: bool = False
    masked: bool = False
    in_front: bool = False
    multiple: int = 1
    filler: int | None = None
    leads: bool = False
    most: Mapping[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    shortest: dict[str, int] = field(default_factory=dict)
    axes: Mapping[str, TextAxis] = field(default_factory=dict)
    keys: tuple[tuple[Padding, ...], ...] = ()
    counts: tuple[Length, ...] = ()
    filled: int = 1
    fills: tuple[Filling, ...] = ()
    cut: Mapping[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Further conditions of a step: how many tokens of each text are padding, `[1]`."""
        return {padding_name(s): torch.zeros(1, dtype=torch.int64) for s in self.hidden}

    @property
    def hidden(self) -> list[str]:
        """The texts whose amount of padding is an input of a step."""
        hidden = (padding.source for each in self.keys for padding in each)
        counted = (length.source for length in self.counts)
        return sorted({*hidden, *counted, *(each.source for each in self.fills)})

    @property
    def room(self) -> int:
        """How many tokens a text may be shorter than the longest, in whole multiples."""
        step = self.multiple * self.filled
        room = min(full - self.shortest[name] for name, full in self.lengths.items())
        return max(room - self.filled // 3, 0) // step * step

    def unseen(self, padding: Tensor) -> Tensor:
        """How many of `padding` tokens are not filled in by the network."""
        return padding // self.filled * self.filled

    def shortened(self, count: int) -> Self:
        """Likewise with all texts shorter by `count` tokens."""
        return replace(self, cut=dict.fromkeys(SOURCES, count))

    def takes(self, padding: str | bool, *, truncation: bool) -> bool:
        """Whether a call of a tokenizer with these arguments encodes a text without padding, not only counts it."""
        return truncation and (self.everywhere or padding != "max_length")

    def length(self, name: str, tokens: int, longest: int) -> int:
        """The length of a tokenizer's texts; `tokens` is that of a short one with its template."""
        self.shortest.setdefault(name, tokens)
        if name not in self.lengths:
            length = min(LIMIT + tokens, longest, self.most.get(name, longest))
            step = self.multiple * self.filled
            self.lengths[name] = math.ceil(length / step) * step
        return self.lengths[name]

    @contextmanager
    def answered(self, pipe: Any, request: Request) -> Iterator[CurrentText]:
        """While open, the pipeline's tokenizers answer with texts of that length."""
        current = CurrentText()
        stubs = {
            name: _FixedTokenizer(name, getattr(pipe, name), self, request, current)
            for name in tokenizers_of(pipe)
        }
        with with_parts(pipe, **stubs):
            yield current

    def placed(self, name: str, condition: Tensor, padding: Tensor) -> Tensor:
        """A condition with its `padding` `[1]` tokens where the network expects them."""
        if not self.in_front or name not in self.axes:
            return condition
        axis = self.axes[name].axis
        unseen = self.unseen(padding)
        places = torch.arange(condition.shape[axis], device=condition.device) - unseen
        return condition.index_select(axis, places % condition.shape[axis])


def padding_name(source: str) -> str:
    """The condition that says how many tokens of a text are padding."""
    return f"padding__{source}"


@dataclass
class CurrentText:
    """The text that was tokenised last, if it was padded here.

    Attributes:
        tokenizer: its name.
        source: of the text.
        special: whether special tokens are added.
        ids: its tokens.
    """

    tokenizer: str = ""
    source: str | None = None
    special: bool = True
    ids: Tensor | None = None


class _FixedTokenizer(TokenizerStandIn):
    """Gives every text the same number of tokens, whichever they are."""

    def __init__(
        self, name: str, tokenizer: Any, texts: FixedTexts, request: Request, current: CurrentText
    ) -> None:
        super().__init__(name, tokenizer)
        self._texts, self._current = texts, current
        self._prompt = request.prompts[0].strip().casefold()

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        made = self.tokenizer(text=text, **options)
        padding, truncation = options.get("padding", False), options.get("truncation", False)
        if not self._texts.takes(padding, truncation=truncation):
            return made
        rows = [text] if isinstance(text, str) else text
        current = self._current
        current.tokenizer, current.special = self.name, options.get("add_special_tokens", True)
        known = self.tokenizer(text=rows[0], add_special_tokens=current.special)
        [ids] = torch.as_tensor(known["input_ids"]).reshape(1, -1)
        longest = options.get("max_length") or self.tokenizer.model_max_length
        full = self._texts.length(self.name, len(ids), longest)
        source = PROMPT if self._prompt in rows[0].casefold() else NEGATIVE
        cut = self._texts.cut.get(source, 0)
        length = full if self._texts.masked else full - cut
        tokens = ids.repeat(length)[:length] if len(ids) else torch.ones(length, dtype=torch.int64)
        mask = (torch.arange(length) < full - cut).long()
        current.source, current.ids = source, tokens.expand(len(rows), -1)
        found = {
            "input_ids": current.ids.clone(),
            "attention_mask": mask.repeat(len(rows), 1),
        }
        if options.get("return_tensors") is None:
            lists = {name: each.tolist() for name, each in found.items()}
            found = {n: each[0] if isinstance(text, str) else each for n, each in lists.items()}
        return BatchEncoding(found)


@contextmanager
def encoders_masked(
    pipe: Any,
    denoiser: Any,
    mask_of: Callable[[Tensor], Tensor | None],
    made: Callable[..., Tensor],
) -> Iterator[None]:
    """While open, text encoders get a mask that hides the padding.

    Args:
        pipe: whose encoders.
        denoiser: not an encoder.
        mask_of: the mask `[B, T]` for token ids `[B, T]`; None changes nothing.
        made: replaces the encoder's output `[B, T, D]`, given the mask and that output.
    """
    masks: list[Tensor | None] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        del module
        ids = kwargs.get("input_ids", args[0] if args else None)
        is_ids = isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point()
        masks.append(mask_of(ids) if is_ids else None)
        if masks[-1] is None:
            return None
        return args[:1], {**kwargs, "attention_mask": masks[-1]}

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        mask = masks.pop()
        if mask is None:
            return None

        def change(leaf: Tensor) -> Tensor:
            is_text = leaf.ndim == 3 and leaf.shape[1] == mask.shape[1]
            return made(mask, leaf) if is_text and leaf.is_floating_point() else leaf

        return pytree.tree_map_only(Tensor, change, output)

    handles = []
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and part is not denoiser:
            handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(part.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
