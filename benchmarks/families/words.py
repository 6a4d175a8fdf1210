"""Tokenizers made in memory: the words of `words.txt` are one token each, the rest is letters."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path

from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    ByT5Tokenizer,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

from examples.shapes import models as shapes

WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()
"""Those of the texts that pipelines put around the prompt, and of some prompts."""

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
"""The chat template of Qwen2.5-VL and Qwen3: roles, text parts, no thinking where asked."""

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% set text %}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endif %}{% endset %}"
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + text + '[/INST]' }}"
    "{% else %}{{ text + eos_token }}{% endif %}{% endfor %}"
)
"""The chat template of Mistral Small 3."""

QWEN_MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)


@cache
def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE, `<|endoftext|>` first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{word}\n {word}" for word in WORDS], trainer)
    merges = [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]
    return backend.get_vocab(), merges


def qwen() -> Qwen2Tokenizer:
    """Of Qwen2, Qwen2.5-VL and Qwen3."""
    vocabulary, merges = byte_pairs()
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        extra_special_tokens=list(QWEN_MARKS),
        chat_template=CHATML,
        model_max_length=2048,
        padding_side="right",
    )


def byte_level(first: tuple[str, ...], **settings: object) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose texts start with the special tokens `first`."""
    vocabulary, merges = byte_pairs()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(list(first))
    if first:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{' '.join(first)} $A",
            special_tokens=[(mark, backend.token_to_id(mark)) for mark in first],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=2048,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        **settings,
    )


def mistral() -> PreTrainedTokenizerFast:
    """Of Mistral Small 3: padded on the left, the template writes the first token."""
    marks = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]"]
    return byte_level(
        (),
        bos_token="<s>",
        extra_special_tokens=marks,
        chat_template=MISTRAL,
        padding_side="left",
    )


def llama() -> PreTrainedTokenizerFast:
    """Of Llama 3."""
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(
        ("<|begin_of_text|>",),
        bos_token="<|begin_of_text|>",
        extra_special_tokens=marks,
        padding_side="right",
    )


def glm() -> PreTrainedTokenizerFast:
    """Of GLM 4: padded on the left, two tokens before each text."""
    return byte_level(("[gMASK]", "<sop>"), padding_side="left")


def gemma() -> GemmaTokenizer:
    """Of Gemma 2: a first token, spaces are part of the words."""
    vocabulary, merges = byte_pairs()
    ranked = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    ours = [piece.replace("Ġ", "▁") for piece in ranked if piece.replace("Ġ", "").isascii()]
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", *ours]
    return GemmaTokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))},
        merges=[(a.replace("Ġ", "▁"), b.replace("Ġ", "▁")) for a, b in merges],
        add_bos_token=True,
        model_max_length=2048,
    )


def t5(length: int = 2048) -> T5Tokenizer:
    """Of T5 and UMT5: words and letters, `</s>` last."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -5.0 - i / 1000) for i, word in enumerate(WORDS)]
    pieces += [(letter, -10.0 - i / 1000) for i, letter in enumerate(letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def byt5() -> ByT5Tokenizer:
    """Of ByT5: bytes."""
    return ByT5Tokenizer(extra_ids=0, model_max_length=2048)


def bert() -> BertTokenizer:
    """Of BERT: words and letters."""
    letters = [chr(code) for code in range(33, 127)]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*marks, *letters, *(f"##{c}" for c in letters), *(w.lower() for w in WORDS)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocabulary, model_max_length=77)


def chat_glm() -> ChatGLMTokenizer:
    """Of ChatGLM 3, padded on the left; its class reads a SentencePiece file."""
    model = io.BytesIO()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(WORDS * 4),
        model_writer=model,
        vocab_size=300,
        model_type="unigram",
        hard_vocab_limit=False,
        byte_fallback=False,
        minloglevel=2,
    )
    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    file.write_bytes(model.getvalue())
    return ChatGLMTokenizer(str(file), model_max_length=256)


def clip(length: int = 77) -> CLIPTokenizer:
    """Of CLIP."""
    tokenizer = shapes.tokenizer()
    tokenizer.model_max_length = length
    return tokenizer


def xlm_roberta() -> XLMRobertaTokenizer:
    """Of XLM-RoBERTa: words and letters between `<s>` and `</s>`."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -5.0 - i / 1000) for i, word in enumerate(WORDS)]
    pieces += [(letter, -10.0 - i / 1000) for i, letter in enumerate(letters)]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], model_max_length=77)
