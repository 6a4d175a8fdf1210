"""Token ids to the denoiser's conditions: diffusers' own pipeline up to its first call of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from search.core.cleaning import find_cleaned
from search.core.errors import SearchError
from search.core.placeholders import vectors_of
from search.core.prompt import PromptField, PromptInput
from search.model.failures import LONGEST
from search.model.live_lora import live_loras, scale_input, scaled
from search.model.padded_text import padded_text_of
from search.model.parts_in_place import with_gradients, with_parts
from search.model.pictures import example_pictures, pictures_and_noise, sources_of
from search.model.recording import record_conditions
from search.model.scheduler import FixedScheduler, FixedTimestep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from search.model.family import OpenedPipeline, Request
    from search.model.padded_text import PaddedText

TEXTS = {
    name: f" Stepcarve {name}:  \u201c\u00c9&amp;\u00df\u201d &lt;&amp;amp;,\t<br>http://a.b  \n"
    for name in ("prompt", "negative")
}
"""What stands for the texts while the pipeline runs; blanks, capitals and signs show what it does to them."""
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
        self._names = [name for name, part in pipe.components.items() if _is_tokenizer(part)]
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module) and part is not pipeline.denoiser:
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
        self._written_out: set[tuple[str, str]] = set()
        self._texts: list[str] = []
        self._padded = padded_text_of(pipe)
        if self._padded is not None:
            # How long its template is shows when a short text is encoded as it is.
            short = replace(self._request, prompts=(SHORT,), negative=SHORT)
            self._conditions(short, self._note, self._note_other)
        self._conditions(self._request, self._note, self._note_other)
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

    def _ignores_empty(self) -> bool:
        """Whether no negative prompt is another thing than an empty one: zeros, and no text is read."""
        if not any(each.source == "negative" for each in self.inputs):
            return False
        read = len(self._texts)
        self._conditions(replace(self._request, negative=""), self._note, self._note_other)
        return len(self._texts) < read

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

        conditions = self._conditions(self._request, answer, read)
        if not self._zeros:
            return conditions
        plain = self._conditions(replace(self._request, negative=""), answer, read)
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
        pipe = self._pipeline.pipe
        self._texts.clear()
        stubs = {
            name: _Tokens(
                name, getattr(pipe, name), answer, self._written_out, self._texts, self._padded
            )
            for name in self._names
        }
        with ExitStack() as stack:
            if self._padded is not None:
                stack.callback(self._padded.forget)
            stack.enter_context(with_gradients(pipe))
            stack.enter_context(with_parts(pipe, scheduler=self._scheduler, **stubs))
            stack.enter_context(pictures_and_noise(pipe, request, read))
            return record_conditions(self._pipeline, request, torch.Generator())

    def _note_other(self, noted: PromptInput) -> Tensor:
        """Add a picture or a noise as input; answer anything."""
        if noted not in self.inputs:
            self.inputs.append(noted)
        return torch.ones(noted.shape)

    def _note(self, asked: Asked, field: PromptField) -> Tensor:
        """Add an input, and how its tokenizer pads and cuts; answer anything."""
        own = getattr(self._pipeline.pipe, asked.tokenizer)
        before, cleanings, after = asked.template
        noted = PromptInput(
            asked.input_name(field),
            asked.source,
            field,
            length=asked.length,
            tokenizer=asked.file,
            placeholders=(asked.tokenizer, asked.source) in self._written_out
            and _has_placeholders(own),
            cleanings=cleanings,
            before=before,
            after=after,
            special=asked.special,
        )
        if noted not in self.inputs:
            self.inputs.append(noted)
        self.tokenizers[asked.file] = _padded(own, asked.length)
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
    """

    tokenizer: str
    source: str
    length: int
    template: tuple[str, tuple[str, ...], str]
    special: bool

    @property
    def file(self) -> str:
        """Of the tokenizer, in a bundle."""
        return f"{self.tokenizer}-{self.length}.json"

    def input_name(self, field: PromptField) -> str:
        """The conditioner's input that holds the answer."""
        return f"{self.source}_{field}{self.tokenizer.removeprefix('tokenizer')}"


_Found = tuple[str, tuple[str, tuple[str, ...], str]]
"""A source, and what the pipeline has made of its text."""
if TYPE_CHECKING:
    _Answer = Callable[[Asked, PromptField], Tensor]


class _Tokens:
    """Stands in for a tokenizer of a pipeline, or a processor with one.

    A pipeline that splits a text before it tokenises it looks for placeholders, to write them out: its
    name and the text's are added to `written_out`. Every text that is tokenised is added to `texts`.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        answer: _Answer,
        written_out: set[tuple[str, str]],
        texts: list[str],
        padded: PaddedText | None,
    ) -> None:
        self._name, self._tokenizer, self._answer = name, tokenizer, answer
        self._written_out, self._texts, self._padded = written_out, texts, padded

    def tokenize(self, text: str, **options: Any) -> Any:
        """The tokenizer's own."""
        found = _template_of(text)
        if found is not None:
            self._written_out.add((self._name, found[0]))
        return self._tokenizer.tokenize(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool = True, **options: Any
    ) -> Any:
        """The text of the template, tokenised without special tokens, which are in it."""
        of_template = {n: v for n, v in options.items() if n not in _OF_TOKENS}
        texts = self._tokenizer.apply_chat_template(conversation, tokenize=False, **of_template)
        if not tokenize:
            return texts
        of_tokens = {name: value for name, value in options.items() if name in _OF_TOKENS}
        return self(texts, add_special_tokens=False, **of_tokens)

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
        self._texts.append(one)
        found = _template_of(one)
        if found is None:
            made = self._tokenizer(
                text, padding=padding, max_length=max_length, truncation=truncation, **options
            )
            if self._padded is not None:
                self._padded.tokens, self._padded.mask = len(made["input_ids"][0]), None
            return made
        if padding != "max_length":
            if truncation:
                return self._of_any_length(found, options)
            # Pipelines only warn then of texts that are too long.
            return _Encoded(lambda _: torch.zeros(1, 0, dtype=torch.int64))
        length = max_length or self._tokenizer.model_max_length
        if length > LONGEST:
            msg = f"the {self._name} is to pad texts to {length:.0e} tokens"
            raise ValueError(msg)
        source, template = found
        special = options.get("add_special_tokens", True)
        asked = Asked(self._name, source, length, template, special)
        return _Encoded(lambda field: self._answer(asked, field))

    def _of_any_length(self, found: _Found, options: dict[str, Any]) -> Any:
        """Answer where the pipeline takes the text as long as it is: with as many tokens as fit."""
        padded = self._padded
        if padded is None:
            msg = (
                f"the {self._name} pads texts to no fixed length; such pipelines are not supported"
            )
            raise SearchError(msg)
        source, template = found
        length = padded.template + padded.length
        special = options.get("add_special_tokens", True)
        asked = Asked(self._name, source, length, template, special)
        padded.mask = self._answer(asked, PromptField.MASK)
        ids = self._answer(asked, PromptField.IDS)
        # The pipeline is to encode all of them; what is padding is said behind it.
        every = (ids >= 0).long()
        return _Encoded(lambda field: ids if field is PromptField.IDS else every)


_OF_TOKENS = ("padding", "max_length", "truncation", "return_tensors", "return_dict")
"""Options of a chat template that say how its text is tokenised."""


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
        return self._find(self._FILLS[name])

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._FILLS:
            raise AttributeError(name)
        return self[name]

    def to(self, *_: Any, **__: Any) -> _Encoded:
        """The same: what answers is where it is wanted."""
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._FILLS)

    def __len__(self) -> int:
        return len(self._FILLS)


def _template_of(text: str) -> _Found | None:
    """Which of our texts the pipeline has made `text` of, and how; None if it is another."""
    for source, ours in TEXTS.items():
        found = find_cleaned(text, ours)
        if found is not None:
            return source, found
        if f"stepcarve {source}" in text.lower():
            msg = (
                f"the pipeline does more to the {source} than to clean it and put it into a longer text, "
                f"it makes {text!r} of {ours!r}; that is not supported"
            )
            raise SearchError(msg)
    return None


def _has_placeholders(tokenizer: Any) -> bool:
    """Whether one of its added tokens stands for several."""
    added = tokenizer.get_added_vocab()
    return any(len(vectors_of(token, added)) > 1 for token in added)


def _padded(tokenizer: Any, length: int) -> Tokenizer:
    """The fast tokenizer behind one of transformers, made to pad and cut to a length."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if not hasattr(tokenizer, "backend_tokenizer"):
        msg = (
            f"{type(tokenizer).__name__} has no fast tokenizer; save the pipeline with one that has"
        )
        raise SearchError(msg)
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.enable_truncation(length, direction=tokenizer.truncation_side)
    copy.enable_padding(
        direction=tokenizer.padding_side,
        length=length,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
    )
    return copy


def _is_tokenizer(part: Any) -> bool:
    return any(
        hasattr(each, "model_max_length") for each in (part, getattr(part, "tokenizer", part))
    )
