"""Token ids to the denoiser's conditions: diffusers' own pipeline up to its first call of the denoiser."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.core.errors import SearchError
from search.core.prompt import PromptField, PromptInput
from search.model.answers import tensors_as_numbers
from search.model.families.text_to_image import call_parameters
from search.model.fast_tokenizer import fast_tokenizer, has_placeholders
from search.model.fixed_texts import NEGATIVE, encoders_masked, padding_name
from search.model.input_tokenizer import InputTokenizer, Reading
from search.model.live_lora import live_loras, scale_input, scaled
from search.model.parts_in_place import with_gradients, with_parts
from search.model.pictures import example_pictures, pictures_and_noise, sources_of
from search.model.quoted_words import TEXTS, UNQUOTED, QuotedError
from search.model.recording import record_conditions
from search.model.selected_rows import AllRowsSelected
from search.model.stand_in_scheduler import FixedScheduler, FixedTimestep
from search.model.text_lengths import fixed_texts_of
from search.model.tokens import tokenizers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenizers import Tokenizer

    from search.model.family import OpenedPipeline, Request
    from search.model.fixed_texts import FixedTexts
    from search.model.input_tokenizer import Answer, Asked

GIVEN = "negative_given"
_PROMPT = "stepcarve prompt"
"""What every text with our prompt in it contains, in lower case."""


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
        self._reading = Reading(fixed_texts_of(pipeline, request))
        try:
            self._noted(self._request)
        except QuotedError:
            self.inputs.clear()
            quoted, texts = self._reading.quoted, self._reading.texts
            self._request = quoted.read(self._noted, texts, self._request)
            self.inputs += quoted.inputs
        if not any(each.source == "prompt" for each in self.inputs):
            how = (
                "neither pads nor truncates the tokens of its prompt to a fixed length, which a "
                "graph needs"
                if any(_PROMPT in text.lower() for text in self._reading.texts)
                else "does not read its prompt through its tokenizers, so a graph cannot take one"
            )
            msg = f"{type(pipe).__name__} {how}; such pipelines are not supported"
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

    @property
    def texts(self) -> FixedTexts | None:
        """How texts of any length are made as long as the longest; None if the pipeline pads them itself."""
        return self._reading.fixed

    def _ignores_empty(self) -> bool:
        """Whether no negative prompt is another thing than an empty one: zeros, and no text is read."""
        if not any(each.source == "negative" for each in self.inputs):
            return False
        reading = self._reading
        given = list(reading.texts)
        self._noted(replace(self._request, negative=""))
        # A call that fails without a negative prompt has read texts before it is made again with one.
        pairs = list(zip(given, reading.texts[-len(given) :], strict=False))
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
        self, request: Request, answer: Answer, read: Callable[[PromptInput], Tensor]
    ) -> dict[str, Tensor]:
        """Run the pipeline with its tokenizers answering by `answer`; pictures and noise are `read`."""
        pipe, reading = self._pipeline.pipe, self._reading
        reading.texts.clear()
        stubs = {
            name: InputTokenizer(name, getattr(pipe, name), answer, reading) for name in self._names
        }
        with ExitStack() as stack:
            stack.enter_context(with_gradients(pipe))
            stack.enter_context(tensors_as_numbers())
            stack.enter_context(with_parts(pipe, scheduler=self._scheduler, **stubs))
            stack.enter_context(pictures_and_noise(pipe, request, read))
            if reading.fixed is not None:
                denoiser = self._pipeline.denoiser
                stack.enter_context(
                    encoders_masked(pipe, denoiser, reading.mask_of, _without_padding)
                )
                if not reading.fixed.masked:
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
        own = own.tokenizer if isinstance(own, InputTokenizer) else own
        before, cleanings, after = asked.template
        noted = PromptInput(
            asked.input_name(field),
            asked.source,
            field,
            length=asked.length,
            tokenizer=asked.file,
            placeholders=(asked.tokenizer, asked.source) in self._reading.written_out
            and has_placeholders(own),
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
        self.tokenizers[asked.file] = fast_tokenizer(own, asked, self._reading.fixed)
        return torch.ones(noted.shape, dtype=torch.int64)


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


def _without_padding(mask: Tensor, encoded: Tensor) -> Tensor:
    """An encoded text `[B, T, D]` with zeros for its padding."""
    return encoded * mask[..., None].to(encoded)
