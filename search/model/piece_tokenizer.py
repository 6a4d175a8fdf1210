"""Slow tokenizers that read a SentencePiece model, such as ChatGLM's, as fast ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNIGRAM, _BPE, _CONTROL = 1, 2, 3
_SPACE = "\u2581"
_SAMPLES = (
    "",
    "a photo of a cat, 4k",
    '  two  "trees" \u00e4\u00df\n\t ok ',
    "\u6728\u304c \U0001f333 \ufb01 \u00bd",
    "sop [gMASK] <s> </s>",
)


def piece_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """The fast tokenizer that does what one of transformers does; None if it reads no such model."""
    file = str(getattr(tokenizer, "vocab_file", None))
    if not file.endswith(".model"):
        return None
    fast = _fast(file)
    if fast is None:
        return None
    fast.post_processor = _around(tokenizer)
    for text in _SAMPLES:
        for special in (True, False):
            made = fast.encode(text, add_special_tokens=special).ids
            if made != tokenizer(text, add_special_tokens=special)["input_ids"]:
                return None
    return fast


def _fast(file: str) -> Tokenizer | None:
    """The model in a file, without special tokens."""
    from sentencepiece import sentencepiece_model_pb2 as formats

    model: Any = formats
    proto = model.ModelProto.FromString(Path(file).read_bytes())
    made, settings = _model(proto), proto.normalizer_spec
    if made is None:
        return None
    fast = Tokenizer(made)
    steps: list[Any] = []
    if settings.precompiled_charsmap:
        steps.append(normalizers.Precompiled(settings.precompiled_charsmap))
    if settings.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    fast.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.add_dummy_prefix else "never"
    fast.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme)
    return fast


def _model(proto: Any) -> Any:
    """The pieces and how texts are split into them."""
    settings = proto.trainer_spec
    # No text becomes a control piece, whatever it says.
    scores = [
        (f"\0{number}" if each.type == _CONTROL else each.piece, each.score)
        for number, each in enumerate(proto.pieces)
    ]
    fallback = settings.byte_fallback
    if settings.model_type == _UNIGRAM:
        return models.Unigram(scores, unk_id=settings.unk_id, byte_fallback=fallback)
    if settings.model_type == _BPE:
        return models.BPE(
            {piece: number for number, (piece, _) in enumerate(scores)},
            list(_merges(scores)),
            unk_token=settings.unk_piece,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    return None


def _merges(scores: list[tuple[str, float]]) -> Iterator[tuple[str, str]]:
    """The pairs that make a piece, best first: SentencePiece merges the pair whose piece scores best."""
    known = dict(scores)
    for piece, _ in sorted(scores, key=lambda each: -each[1]):
        for cut in range(1, len(piece)):
            if piece[:cut] in known and piece[cut:] in known:
                yield piece[:cut], piece[cut:]


def _around(tokenizer: Any) -> Any:
    """Puts special tokens before and behind a text, as `tokenizer` does."""
    whole, inner = (tokenizer("a", add_special_tokens=s)["input_ids"] for s in (True, False))
    place = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    before, behind = whole[:place], whole[place + len(inner) :]
    names = {number: f"special_{number}" for number in (*before, *behind)}
    return processors.TemplateProcessing(
        single=[*(names[n] for n in before), "$A", *(names[n] for n in behind)],
        special_tokens=[(name, number) for number, name in names.items()],
    )
