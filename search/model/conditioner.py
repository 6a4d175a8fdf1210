"""Token ids to the denoiser's conditions: diffusers' own pipeline up to its first call of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from search.core.cleaning import find_cleaned
from search.core.errors import SearchError
from search.core.placeholders import vectors_of
from search.core.prompt import PromptField, PromptInput
from search.model.answers import tensors_as_numbers
from search.model.byte_tokenizer import byte_tokenizer
from search.model.failures import LONGEST
from search.model.families.text_to_image import call_parameters
from search.model.fixed_texts import NEGATIVE, encoders_told, padding_name
from search.model.live_lora import live_loras, scale_input, scaled
from search.model.padded_text import padded_text_of
from search.model.parts_in_place import with_gradients, with_parts
from search.model.pictures import example_pictures, pictures_and_noise, sources_of
from search.model.piece_tokenizer import piece_tokenizer
from search.model.quoted_words import TEXTS, UNQUOTED, QuotedError, QuotedWords
from search.model.recording import record_conditions
from search.model.scheduler import FixedScheduler, FixedTimestep
from search.model.selected_rows import AllRowsSelected
from search.model.text_lengths import fixed_texts_of
from search.model.tokens import TokenizerStandIn, tokenizers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.core.quotation import Quotation
    from search.model.family import OpenedPipeline, Request
    from search.model.fixed_texts import FixedTexts
    from search.model.padded_text import PaddedText

SHORT = "a"
GIVEN = "negative_given"


class TextConditioner(nn.Module):
    """Prompt inputs to conditions, for any pipeline that reads its texts with tokenizers.

    While the pipeline runs, its tokenizers answer with the module's inputs instead of token ids.
    Which inputs there are is found by running it once.
    """

    def __init__(self, pipeline: OpenedPipeline, request: Request) -> None:
        super().__init__()
        # A model without its weights would answer with zeros.
        pipeline.load_around()
        pipe = pipeline.pipe
        self._pipeline = pipeline
        self._names = tokenizers_of(pipe)
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module) and name not in pipeline.networks:
                self.add_module(name, part)
        # With pictures, pipelines look for the timestep to begin at.
        timesteps: Tensor | list[FixedTimestep] = (
            torch.ones(1) if sources_of(pipe) else [FixedTimestep(1)]
        )
        self._scheduler = FixedScheduler(timesteps, pipe.scheduler.config)
        pictures = example_pictures(pipe, request)
        self._request = replace(
            request,
            # What is drawn before and after the initial noise shows where that is drawn.
            latents=None if pictures else request.latents,
            prompts=(TEXTS["prompt"],),
            negative=TEXTS["negative"],
            pictures=pictures,
        )
        self.inputs: list[PromptInput] = []
        self.tokenizers: dict[str, Tokenizer] = {}
        self._reading = _Reading(fixed_texts_of(pipeline, request), padded_text_of(pipe))
        if self._reading.padded is not None:
            # How long its template is shows when a short text is encoded as it is.
            short = replace(self._request, prompts=(SHORT,), negative=SHORT)
            self._noted(short)
        try:
            self._noted(self._request)
        except QuotedError:
            self.inputs.clear()
            quoted, texts = self._reading.quoted, self._reading.texts
            self._request = quoted.read(self._noted, texts, self._request)
            self.inputs += quoted.inputs
        if not any(each.source == "prompt" for each in self.inputs):
            msg = (
                f"a {type(pipe).__name__} reads its prompt in another way than through its tokenizers, so no "
                "graph can take one; such pipelines are not supported"
            )
            raise SearchError(msg)
        self._zeros = self._ignores_empty()
        if self._zeros:
            self.inputs.append(PromptInput(GIVEN, "negative", PromptField.GIVEN))
        parts = [each for each in pipe.components.values() if isinstance(each, nn.Module)]
        self._live = {lora: f"scale_of_{lora}" for lora in live_loras(parts)}
        for lora, name in self._live.items():
            self.inputs.append(PromptInput(name, lora, PromptField.SCALE, dims=(1,)))
        self.switches = [
            name
            for name, each in call_parameters(pipe).items()
            if each.default is True and "mask" in name
        ]

    def _ignores_empty(self) -> bool:
        """Whether no negative prompt is another thing than an empty one: zeros, and no text is read."""
        if not any(each.source == "negative" for each in self.inputs):
            return False
        reading = self._reading
        given = list(reading.texts)
        self._noted(replace(self._request, negative=""))
        pairs = list(zip(given, reading.texts, strict=False))
        self.inputs = [
            replace(_with_empty(each, pairs), alone=reading.alone) for each in self.inputs
        ]
        return len(reading.texts) < len(given)

    def _noted(self, request: Request) -> dict[str, Tensor]:
        """The conditions of a request, whose inputs are noted."""
        return self._conditions(request, self._note, self._note_other)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """What `inputs` says, in that order -> the conditions by name."""
        given = {each.name: tensor for each, tensor in zip(self.inputs, inputs, strict=True)}
        scales = {lora: given[name] for lora, name in self._live.items()}
        with scaled(self.children(), scales):
            made = self._made_of(given)
        return {**made, **{scale_input(lora): scale.clone() for lora, scale in scales.items()}}

    def _made_of(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The conditions that these inputs give."""

        def answer(asked: Asked, field: PromptField) -> Tensor:
            return given[asked.input_name(field)]

        def read(noted: PromptInput) -> Tensor:
            return given[noted.name]

        def encoded(request: Request) -> dict[str, Tensor]:
            run = partial(self._conditions, answer=answer, read=read)
            return self._reading.quoted.encoded(run, request, given)

        conditions = encoded(self._request)
        if not self._zeros:
            return conditions
        plain = encoded(replace(self._request, negative=""))
        has_negative = given[GIVEN].bool()
        return {
            name: torch.where(has_negative, tensor, plain[name])
            if tensor.is_floating_point()
            else tensor
            for name, tensor in conditions.items()
        }

    def _conditions(
        self, request: Request, answer: _Answer, read: Callable[[PromptInput], Tensor]
    ) -> dict[str, Tensor]:
        """Run the pipeline with its tokenizers answering by `answer`; pictures and noise are `read`."""
        pipe, reading = self._pipeline.pipe, self._reading
        reading.texts.clear()
        stubs = {name: _Tokens(name, getattr(pipe, name), answer, reading) for name in self._names}
        with ExitStack() as stack:
            if reading.padded is not None:
                stack.callback(reading.padded.forget)
            stack.enter_context(with_gradients(pipe))
            stack.enter_context(tensors_as_numbers())
            stack.enter_context(with_parts(pipe, scheduler=self._scheduler, **stubs))
            stack.enter_context(pictures_and_noise(pipe, request, read))
            if reading.fixed is not None:
                denoiser = self._pipeline.denoiser
                stack.enter_context(encoders_told(pipe, denoiser, reading.told, _without_padding))
                if not reading.fixed.told:
                    stack.enter_context(AllRowsSelected())
            conditions = record_conditions(self._pipeline, request, torch.Generator())
        return conditions if reading.fixed is None else self._placed(reading.fixed, conditions)

    def _placed(self, texts: FixedTexts, conditions: dict[str, Tensor]) -> dict[str, Tensor]:
        """The conditions with their padding where the network takes it, and how much it is."""
        # Of an empty text at least one token is seen.
        padding = {
            source: (mask.shape[1] - mask.sum(1)).clamp(max=mask.shape[1] - 1)
            for source, mask in self._reading.masks.items()
        }
        placed = {
            name: texts.placed(name, tensor, padding[texts.axes[name].source])
            if name in texts.axes
            else tensor
            for name, tensor in conditions.items()
        }
        return placed | {padding_name(source): padding[source] for source in texts.hidden}

    def _note_other(self, noted: PromptInput) -> Tensor:
        """Add a picture or a noise as input; answer anything."""
        if noted not in self.inputs:
            self.inputs.append(noted)
        return torch.ones(noted.shape)

    def _note(self, asked: Asked, field: PromptField) -> Tensor:
        """Add an input, and how its tokenizer pads and cuts; answer anything."""
        own = getattr(self._pipeline.pipe, asked.tokenizer)
        own = own.tokenizer if isinstance(own, _Tokens) else own
        before, cleanings, after = asked.template
        noted = PromptInput(
            asked.input_name(field),
            asked.source,
            field,
            length=asked.length,
            tokenizer=asked.file,
            placeholders=(asked.tokenizer, asked.source) in self._reading.written_out
            and _has_placeholders(own),
            cleanings=cleanings,
            before=before,
            after=after,
            special=asked.special,
            multiple=asked.multiple,
            quotation=asked.quotation,
            spelled=asked.spelled,
        )
        if noted not in self.inputs:
            self.inputs.append(noted)
        self.tokenizers[asked.file] = _padded(own, asked, self._reading.fixed)
        return torch.ones(noted.shape, dtype=torch.int64)


@dataclass(frozen=True)
class Asked:
    """One call of a tokenizer for a text that the prompt is in.

    Attributes:
        tokenizer: its name in the pipeline.
        source: `prompt` or `negative`.
        length: to which it pads and cuts.
        template: what the pipeline has made of the prompt; see `find_cleaned`.
        special: whether special tokens are added.
        most: tokens that are read, the template's with them.
        multiple: see `PromptInput`.
        quotation: likewise.
        spelled: likewise.
    """

    tokenizer: str
    source: str
    length: int
    template: tuple[str, tuple[str, ...], str]
    special: bool
    most: int
    multiple: int = 0
    quotation: Quotation | None = None
    spelled: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Of the tokenizer, in a bundle."""
        return f"{self.tokenizer}-{'up-to-' if self.multiple else ''}{self.length}.json"

    def input_name(self, field: PromptField) -> str:
        """The conditioner's input that holds the answer."""
        return f"{self.source}_{field}{self.tokenizer.removeprefix('tokenizer')}"


_Found = tuple[str, tuple[str, tuple[str, ...], str]]
"""A source, and what the pipeline has made of its text."""
if TYPE_CHECKING:
    _Answer = Callable[[Asked, PromptField], Tensor]


@dataclass
class _Reading:
    """What is read of texts while the pipeline runs.

    Attributes:
        fixed: how texts of any length are made as long as the longest.
        padded: what does that for pipelines whose network takes a mask.
        written_out: tokenizer and source of texts in which the pipeline looks for placeholders.
        texts: all that are tokenised.
        masks: of texts of a fixed length, by source, `[1, T]`: 1 where there is a token.
        new: that of the text whose encoder is called next.
        is_empty: whether that text has no tokens.
        alone: the token that the encoder is given then.
        quoted: what is done with words in quotes.
    """

    fixed: FixedTexts | None
    padded: PaddedText | None
    written_out: set[tuple[str, str]] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    masks: dict[str, Tensor] = field(default_factory=dict)
    new: Tensor | None = None
    is_empty: bool = False
    alone: int = 0
    quoted: QuotedWords = field(default_factory=QuotedWords)

    def told(self, ids: Tensor) -> Tensor | None:
        """The mask of the text that was tokenised last, if these are its tokens."""
        mask, self.new = self.new, None
        if self.is_empty and ids.shape == (1, 1):
            self.alone = int(ids)
        self.is_empty = False
        return mask if mask is not None and mask.shape == ids.shape else None


class _Tokens(TokenizerStandIn):
    """Answers with inputs for our texts.

    A pipeline that splits a text before it tokenises it looks for placeholders, to write them out.
    """

    def __init__(self, name: str, tokenizer: Any, answer: _Answer, reading: _Reading) -> None:
        super().__init__(name, tokenizer)
        self._answer, self._reading = answer, reading

    def tokenize(self, text: str, **options: Any) -> Any:
        """The tokenizer's own."""
        found = _template_of(text, self.name)
        if found is not None:
            self._reading.written_out.add((self.name, found[0]))
        return self.tokenizer.tokenize(text, **options)

    def __call__(
        self,
        text: str | list[str],
        *,
        padding: str | bool = False,
        max_length: int | None = None,
        truncation: bool = False,
        **options: Any,
    ) -> Any:
        """Answer with inputs for our texts, and with the tokenizer's own ids for any other."""
        [one] = [text] if isinstance(text, str) else text
        reading = self._reading
        reading.texts.append(one)
        found, quotation = _template_of(one, self.name), None
        if found is None:
            source = reading.quoted.source_of(one, self.name)
            if source is not None:
                found, quotation = (source, ("", (), "")), reading.quoted.quotation
        special = options.get("add_special_tokens", True)
        longest = max_length or self.tokenizer.model_max_length
        if reading.fixed is not None and reading.fixed.takes(padding, truncation=truncation):
            made = self._of_fixed_length(one, found, longest, special=special)
            is_row = isinstance(text, str) and options.get("return_tensors") is None
            return {n: made[n][0] for n in made} if is_row else made
        if found is None:
            made = self.tokenizer(
                text, padding=padding, max_length=max_length, truncation=truncation, **options
            )
            if reading.padded is not None:
                reading.padded.tokens, reading.padded.mask = len(made["input_ids"][0]), None
            return made
        if padding != "max_length":
            if truncation:
                return self._of_any_length(found, special=special)
            if not padding and options.get("return_tensors") is None:
                hole = _Hole(*found, special=special)
                return {"input_ids": [hole] if isinstance(text, str) else [[hole]]}
            # Pipelines only warn then of texts that are too long.
            return _Encoded(lambda _: torch.zeros(1, 0, dtype=torch.int64))
        if longest > LONGEST:
            msg = f"the {self.name} is to pad texts to {longest:.0e} tokens"
            raise ValueError(msg)
        source, template = found
        asked = Asked(self.name, source, longest, template, special, longest, quotation=quotation)
        return _Encoded(lambda field: self._answer(asked, field))

    def pad(
        self, encoded: Any, *, max_length: int | None = None, padding: Any = True, **options: Any
    ) -> Any:
        """Answer where a pipeline pads what it has of a text in lists."""
        rows = encoded["input_ids"]
        if not any(isinstance(token, _Hole) for row in rows for token in row):
            return self.tokenizer.pad(encoded, max_length=max_length, padding=padding, **options)
        if padding != "max_length" or max_length is None or [len(row) for row in rows] != [1]:
            msg = f"the {self.name} pads lists of tokens to no fixed length; such pipelines are not supported"
            raise SearchError(msg)
        [[hole]] = rows
        spelled = self._reading.quoted.spelled
        asked = Asked(
            self.name,
            hole.source,
            max_length,
            hole.template,
            hole.special,
            max_length,
            spelled=spelled,
        )
        return _Encoded(lambda field: self._answer(asked, field))

    def _of_fixed_length(
        self, text: str, found: _Found | None, longest: int, *, special: bool
    ) -> _Encoded:
        """Answer where a text is made as long as the longest."""
        reading = self._reading
        assert reading.fixed is not None
        length = reading.fixed.lengths[self.name]
        source, template = found or (NEGATIVE, ("", (), ""))
        most = min(length, longest)
        asked = Asked(self.name, source, length, template, special, most, reading.fixed.multiple)
        if found is None:
            made = _padded(self.tokenizer, asked, reading.fixed).encode(
                text, add_special_tokens=special
            )
            # An empty text is left empty, to see what the pipeline reads instead.
            reading.is_empty, length = not len(made), length if len(made) else 0
            ids = torch.tensor([made.ids + [0] * (length - len(made))], dtype=torch.int64)
            mask = (torch.arange(length) < len(made)).long()[None]
        else:
            ids, mask = (self._answer(asked, f) for f in (PromptField.IDS, PromptField.MASK))
        reading.new = mask
        if not reading.is_empty:
            reading.masks[source] = mask
        # What is padding is said to the encoder; the pipeline is to take all of them for its text.
        every = mask if reading.fixed.told else (ids >= 0).long()
        return _Encoded(lambda field: ids if field is PromptField.IDS else every)

    def _of_any_length(self, found: _Found, *, special: bool) -> Any:
        """Answer where the pipeline takes the text as long as it is: with as many tokens as fit."""
        padded = self._reading.padded
        if padded is None:
            msg = f"the {self.name} pads texts to no fixed length; such pipelines are not supported"
            raise SearchError(msg)
        source, template = found
        length = padded.template + padded.length
        asked = Asked(self.name, source, length, template, special, length)
        padded.mask = self._answer(asked, PromptField.MASK)
        ids = self._answer(asked, PromptField.IDS)
        # The pipeline is to encode all of them; what is padding is said behind it.
        every = (ids >= 0).long()
        return _Encoded(lambda field: ids if field is PromptField.IDS else every)


class _Hole(int):
    """A number in a list of token ids where those of one of our texts belong."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Zero."""
        return super().__new__(cls, 0)

    def __init__(
        self, source: str, template: tuple[str, tuple[str, ...], str], *, special: bool
    ) -> None:
        self.source, self.template, self.special = source, template, special


_POSITIONS = "position_ids"


class _Encoded(Mapping[str, Any]):
    """What a tokenizer returns: token ids and their mask, by key or by attribute.

    Without padding to a length, pipelines only warn of texts that are too long; this returns none.
    """

    _FILLS: ClassVar[dict[str, PromptField]] = {
        "input_ids": PromptField.IDS,
        "attention_mask": PromptField.MASK,
    }

    def __init__(self, find: Callable[[PromptField], Tensor]) -> None:
        self._find = find

    def __getitem__(self, name: str) -> Tensor:
        if name == _POSITIONS:
            # Those of the tokens; padding, which some tokenizers put before them, has the first.
            return (self._find(PromptField.MASK).cumsum(1) - 1).clamp(min=0)
        return self._find(self._FILLS[name])

    def __getattr__(self, name: str) -> Tensor:
        if name not in (*self._FILLS, _POSITIONS):
            raise AttributeError(name)
        return self[name]

    def to(self, *_: Any, **__: Any) -> _Encoded:
        """The same: what answers is where it is wanted."""
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._FILLS)

    def __len__(self) -> int:
        return len(self._FILLS)


def _template_of(text: str, name: str) -> _Found | None:
    """Which of our texts the pipeline has made `text` of, and how; None if it is another."""
    for source in TEXTS:
        for ours in (TEXTS[source], UNQUOTED[source]):
            found = find_cleaned(text, ours)
            if found is not None:
                return source, found
        if f"stepcarve {source}" in text.lower():
            if text in TEXTS[source]:
                raise QuotedError(name)
            msg = (
                f"the pipeline does more to the {source} than to clean it and put it into a longer text, "
                f"it makes {text!r} of {TEXTS[source]!r}; that is not supported"
            )
            raise SearchError(msg)
    return None


def _with_empty(each: PromptInput, texts: list[tuple[str, str]]) -> PromptInput:
    """An input that knows what its pipeline reads in the place of an empty text.

    Args:
        each: the input.
        texts: what was read with our negative prompt and with none.
    """
    if not each.tokenizer or each.quotation is not None:
        return each
    for given, plain in texts:
        fits = plain.startswith(each.before) and plain.endswith(each.after)
        ours = (each.written(known[NEGATIVE]) for known in (TEXTS, UNQUOTED))
        if given in ours and fits:
            empty = plain[len(each.before) : len(plain) - len(each.after)]
            if each.source == NEGATIVE or not empty.strip():
                return replace(each, empty=empty)
    return each


def _has_placeholders(tokenizer: Any) -> bool:
    """Whether one of its added tokens stands for several."""
    added = tokenizer.get_added_vocab()
    return any(len(vectors_of(token, added)) > 1 for token in added)


def _padded(tokenizer: Any, asked: Asked, fixed: FixedTexts | None) -> Tokenizer:
    """The fast tokenizer behind one of transformers, made to pad and cut to what is asked."""
    inner = getattr(tokenizer, "tokenizer", None)
    tokenizer = inner if hasattr(inner, "model_max_length") else tokenizer
    fast = (
        Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        if hasattr(tokenizer, "backend_tokenizer")
        else byte_tokenizer(tokenizer) or piece_tokenizer(tokenizer)
    )
    if fast is None:
        msg = (
            f"{type(tokenizer).__name__} has no fast tokenizer; save the pipeline with one that has"
        )
        raise SearchError(msg)
    fast.enable_truncation(asked.most, direction=tokenizer.truncation_side)
    fast.no_padding()
    if not asked.multiple:
        fast.enable_padding(
            direction=tokenizer.padding_side,
            length=asked.length,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
        )
    elif fixed is not None and fixed.filler is not None:
        fast.enable_padding(
            direction="left" if fixed.leads else "right",
            pad_to_multiple_of=asked.multiple,
            pad_id=fixed.filler,
            pad_token=tokenizer.convert_ids_to_tokens(fixed.filler),
        )
    return fast


def _without_padding(mask: Tensor, encoded: Tensor) -> Tensor:
    """An encoded text `[B, T, D]` with zeros for its padding."""
    return encoded * mask[..., None].to(encoded)
