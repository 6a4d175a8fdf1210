"""A stand-in for Qwen2-VL's processor, whose part for videos needs torchvision."""

from __future__ import annotations

from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin


class PictureProcessor(ProcessorMixin):  # type: ignore[misc]
    """Texts and pictures, as Qwen2-VL's processor treats them."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessor = None,
        tokenizer: Qwen2Tokenizer = None,
        chat_template: str | None = None,
    ) -> None:
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    replace_image_token = Qwen2VLProcessor.replace_image_token
