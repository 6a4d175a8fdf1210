"""What stands in for a tokenizer of a pipeline, or for a processor with one."""

from __future__ import annotations

from typing import Any

_OF_TOKENS = ("padding", "max_length", "truncation", "return_tensors", "return_dict")
"""Options of a chat template that say how its text is tokenised."""


class TokenizerStandIn:
    """Answers in a tokenizer's place; a subclass says what. The rest is the tokenizer's own.

    Attributes:
        name: of the tokenizer in the pipeline.
        tokenizer: whose place it takes.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name, self.tokenizer = name, tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    @property
    def padding_side(self) -> str:
        """That of the tokenizer; some pipelines set it while they encode a prompt."""
        return str(self.tokenizer.padding_side)

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        self.tokenizer.padding_side = side

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        """Tokens of texts."""
        return self.tokenizer(text=text, **options)

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool = True, **options: Any
    ) -> Any:
        """The text of the template, tokenised without special tokens, which are in it."""
        of_template = {n: v for n, v in options.items() if n not in _OF_TOKENS}
        texts = self.tokenizer.apply_chat_template(conversation, tokenize=False, **of_template)
        if not tokenize:
            return texts
        of_tokens = {name: value for name, value in options.items() if name in _OF_TOKENS}
        return self(texts, add_special_tokens=False, **of_tokens)


def tokenizers_of(pipe: Any) -> list[str]:
    """The names of a pipeline's parts that make tokens of texts."""
    return [name for name, part in pipe.components.items() if _is_tokenizer(part)]


def _is_tokenizer(part: Any) -> bool:
    return any(
        hasattr(each, "model_max_length") for each in (part, getattr(part, "tokenizer", part))
    )
