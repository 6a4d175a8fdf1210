"""Texts of any length as texts of one length."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_cogview4 import CogView4PatchEmbed
from torch.nn import functional

from benchmarks.families import image
from search.core.errors import SearchError
from search.model.answers import Answers, tensors_as_numbers
from search.model.entry import in_latents
from search.model.family import Request
from search.model.fixed_texts import Filling, FixedTexts, Padding, TextAxis, padding_name
from search.model.hidden_keys import counts_changed, without_padding
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.text_lengths import _Finder, fixed_texts_of
from search.model.tokens import TokenizerStandIn

TOYS = {toy.cls: toy for toy in image.TOYS}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    folder = tmp_path_factory.mktemp("toys")

    def opened(name: str) -> Pipeline:
        toy, path = TOYS[name], folder / name
        if not path.exists():
            toy.build().save_pretrained(path)
        pipeline = open_pipeline(path, weights=False)
        sizes = ("height", "width")
        pipeline.use_call({key: each for key, each in toy.call.items() if key not in sizes})
        return pipeline

    return opened


def texts_of(pipeline: Pipeline, name: str) -> FixedTexts | None:
    toy = TOYS[name]
    size = toy.call["height"], toy.call["width"]
    return fixed_texts_of(pipeline, Request(("",), 2, toy.guidance).sized(size))


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False, True, True, True]])])
@pytest.mark.parametrize("is_bool", [True, False])
@pytest.mark.parametrize("in_front", [True, False])
def test_attention_does_not_see_padding(
    mask: torch.Tensor | None, is_bool: bool, in_front: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 6, 4, generator=generator) for _ in range(3))
    if mask is not None and not is_bool:
        mask = torch.zeros(1, 6).masked_fill(~mask, -torch.inf)
    # Of a text in the first four keys, two are padding.
    texts = FixedTexts(in_front=in_front, keys=((Padding("prompt", (0 if in_front else 4,)),),))
    seen = [2, 3, 4, 5] if in_front else [0, 1, 4, 5]
    with without_padding(texts, {padding_name("prompt"): torch.tensor([2])}):
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expected = functional.scaled_dot_product_attention(
        query, key[..., seen, :], value[..., seen, :], None if mask is None else mask[:, seen]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("in_front", "rows"), [(True, [6, 7]), (False, [2, 3])])
def test_a_network_fills_up_a_text_with_its_own_tokens(in_front: bool, rows: list[int]) -> None:
    # Of eight tokens two are the text's; the network fills them up to four.
    texts = FixedTexts(filled=4, in_front=in_front, fills=(Filling(0, "prompt", 8),))
    never, tokens, own = torch.zeros(8, 1, dtype=torch.bool), torch.zeros(8, 3), torch.ones(1, 3)
    with without_padding(texts, {padding_name("prompt"): torch.tensor([6])}):
        found = torch.where(never, own, tokens)
        other = torch.where(never, own, tokens)
    assert found.any(1).nonzero().flatten().tolist() == rows
    assert not other.any()


@pytest.mark.slow
def test_z_image_fills_up_its_texts_to_32_tokens(opened: Callable[[str], Pipeline]) -> None:
    texts = texts_of(opened("ZImagePipeline"), "ZImagePipeline")
    assert texts is not None
    assert (texts.filled, texts.in_front, set(texts.lengths.values())) == (32, False, {64})
    # The picture stands behind the text, and counts on from its length.
    assert {(each.source, len(each.places)) for each in texts.counts} == {
        ("prompt", 1),
        ("negative", 1),
    }
    assert {each.source for each in texts.fills} == {"prompt", "negative"}


def test_padding_of_one_row_is_seen_by_the_other() -> None:
    query, key, value = torch.randn(3, 2, 1, 5, 4).unbind()
    texts = FixedTexts(keys=((Padding("prompt", (-1, 5)),),))
    with without_padding(texts, {padding_name("prompt"): torch.tensor([3])}):
        found = functional.scaled_dot_product_attention(query, key, value)
    whole = functional.scaled_dot_product_attention(query, key, value)
    short = functional.scaled_dot_product_attention(query, key[..., :2, :], value[..., :2, :])
    torch.testing.assert_close(found, torch.stack([whole[0], short[1]]))


def test_padding_is_moved_in_front_of_a_text() -> None:
    texts = FixedTexts(in_front=True, axes={"text": TextAxis(1, "prompt")})
    text = torch.tensor([[[1.0], [2.0], [3.0], [0.0], [0.0]]])
    placed = texts.placed("text", text, torch.tensor([2]))
    assert placed.flatten().tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert texts.placed("other", text, torch.tensor([2])) is text


def test_whole_numbers_can_be_changed_on_their_way_into_a_tensor() -> None:
    with counts_changed(lambda number, made: made + 10 * number):
        found = [torch.tensor([1, 2]), torch.tensor([0.5]), torch.tensor([3])]
        found += [torch.arange(2), torch.arange(4, 6), torch.arange(0.0, 1.0)]
    assert [each.tolist() for each in found] == [[1, 2], [0.5], [13], [0, 1], [24, 25], [0.0]]


def test_a_tensor_made_of_a_timesteps_number_follows_it() -> None:
    source = compile("torch.full((2,), t.item())", "/site-packages/diffusers/some.py", "eval")
    answers = Answers()
    with tensors_as_numbers(), answers.recorded():
        eval(source, {"torch": torch, "t": torch.tensor([1.0])[0]})
    timesteps = torch.tensor([7.0])
    with tensors_as_numbers(), answers.repeated(timesteps):
        assert eval(source, {"torch": torch, "t": timesteps[0]}).tolist() == [7.0, 7.0]


def test_what_is_appended_to_latents_stays() -> None:
    made = torch.arange(6.0).reshape(1, 2, 3)
    found = in_latents(made, torch.tensor([[[7.0], [8.0]]]))
    assert found.tolist() == [[[7.0, 1.0, 2.0], [8.0, 4.0, 5.0]]]
    assert in_latents(made, -made).equal(-made)


@pytest.mark.slow
def test_a_pipeline_that_pads_its_texts_is_left_alone(opened: Callable[[str], Pipeline]) -> None:
    assert texts_of(opened("SanaPipeline"), "SanaPipeline") is None


@pytest.mark.slow
def test_texts_are_as_long_as_the_pipeline_reads(opened: Callable[[str], Pipeline]) -> None:
    pipeline = opened("QwenImagePipeline")
    texts = texts_of(pipeline, "QwenImagePipeline")
    assert texts is not None
    # The pipeline drops 34 tokens of its template, and what is behind the maximum of its call.
    assert texts.lengths == {
        "tokenizer": 34 + TOYS["QwenImagePipeline"].call["max_sequence_length"]
    }
    assert texts.hidden == ["negative", "prompt"]


@pytest.mark.slow
def test_a_text_that_its_tokenizer_ends_is_not_cut(
    opened: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = opened("QwenImagePipeline")
    tokenize = type(pipeline.pipe.tokenizer).__call__

    def ended(self: Any, *args: Any, **options: Any) -> Any:
        made = tokenize(self, *args, **options)
        if isinstance(made["input_ids"][0], int):
            made["input_ids"][-1] = 0
        return made

    monkeypatch.setattr(type(pipeline.pipe.tokenizer), "__call__", ended)
    with pytest.raises(SearchError, match="gives other results for a padded text"):
        texts_of(pipeline, "QwenImagePipeline")


@pytest.mark.slow
def test_tokens_that_fill_up_a_text_are_read(opened: Callable[[str], Pipeline]) -> None:
    pipeline = opened("CogView4Pipeline")
    texts = texts_of(pipeline, "CogView4Pipeline")
    assert texts is not None
    assert (texts.multiple, texts.leads) == (16, True)
    assert texts.filler == pipeline.pipe.tokenizer.pad_token_id
    assert texts.hidden == ["negative", "prompt"]
    # Two blocks and two calls; the text stands before the picture.
    length = texts.lengths["tokenizer"]
    assert [keys[0] for keys in texts.keys] == [
        Padding("prompt", (length,)),
        Padding("prompt", (length,)),
        Padding("negative", (length,)),
        Padding("negative", (length,)),
    ]


@pytest.mark.slow
def test_a_network_that_means_over_its_text_is_refused(
    opened: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CogView4PatchEmbed.forward

    def meaning(self: Any, picture: torch.Tensor, text: torch.Tensor) -> Any:
        made, encoded = forward(self, picture, text)
        return made + encoded.mean(1, keepdim=True), encoded

    monkeypatch.setattr(CogView4PatchEmbed, "forward", meaning)
    with pytest.raises(SearchError, match="gives other results for a padded text"):
        texts_of(opened("CogView4Pipeline"), "CogView4Pipeline")


@pytest.mark.slow
def test_a_network_that_computes_otherwise_for_the_shortest_texts_is_refused(
    opened: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = CogView4PatchEmbed.forward

    def staged(self: Any, picture: torch.Tensor, text: torch.Tensor) -> Any:
        made, encoded = forward(self, picture, text)
        # The same for 48 and 32 tokens, another one for 16.
        return made * (1 + encoded.shape[1] // 32), encoded

    monkeypatch.setattr(CogView4PatchEmbed, "forward", staged)
    with pytest.raises(SearchError, match="gives other results for a padded text"):
        texts_of(opened("CogView4Pipeline"), "CogView4Pipeline")


@pytest.mark.parametrize(("stage", "longest"), [(0, None), (40, 40), (8, None)])
def test_texts_are_as_long_as_a_network_makes_the_same_number_of_tokens_of_them(
    stage: int, longest: int | None
) -> None:
    finder: Any = object.__new__(_Finder)
    texts = FixedTexts(lengths={"tokenizer": 96}, shortest={"tokenizer": 10})

    def keys(texts: FixedTexts, cut: int) -> list[int]:
        length = texts.lengths["tokenizer"] - cut
        # Beside the text and one without it, there is a sum of the text in four tokens or eight.
        return [length, 7, 4 + 4 * (0 < stage < length)]

    finder._keys, finder.encode = keys, lambda texts: texts.length("tokenizer", 10, 96)
    expected = 96 if longest is None else longest
    assert finder.in_proportion(texts).lengths == {"tokenizer": expected}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "in_front", "counts"),
    [
        ("Lumina2Pipeline", True, 0),
        ("Kandinsky5T2IPipeline", False, 0),
        ("ErnieImagePipeline", False, 2),
    ],
)
def test_padding_is_where_positions_stay(
    opened: Callable[[str], Pipeline], name: str, in_front: bool, counts: int
) -> None:
    texts = texts_of(opened(name), name)
    assert texts is not None
    assert texts.in_front is in_front
    assert len(texts.counts) == counts
    assert texts.hidden == ["negative", "prompt"]


def test_the_side_that_a_pipeline_pads_on_is_set_on_its_tokenizer() -> None:
    tokenizer = SimpleNamespace(padding_side="left")
    TokenizerStandIn("tokenizer", tokenizer).padding_side = "right"
    assert tokenizer.padding_side == "right"
