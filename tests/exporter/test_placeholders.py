"""What a pipeline does to a text before it tokenises it, in bundles."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from engines.base import make_engine
from engines.runner import Runner
from exporter.exporting import export
from search.core.errors import SearchError
from search.core.placeholders import written_out
from search.methods.options import Options
from search.methods.whole import full
from search.model.conditioner import TextConditioner
from search.model.family import Request
from search.model.opening import open_pipeline
from tests.pipelines import RANDOM


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with one placeholder of three vectors, and one of a single vector."""
    path = tmp_path_factory.mktemp("inverted") / "pipeline"
    pipe: Any = RANDOM["three-levels"]()
    width = pipe.text_encoder.config.hidden_size
    generator = torch.Generator().manual_seed(1)
    for name, count in (("<toy>", 3), ("<one>", 1)):
        vectors = 3 * torch.randn(count, width, generator=generator)
        pipe.load_textual_inversion({name: vectors}, token=name)
    pipe.save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_bundle_writes_placeholders_out_as_the_pipeline_does(
    inverted: Path, tmp_path: Path
) -> None:
    subnet = full(open_pipeline(inverted, weights=False), Options(steps=2, guidance=3))
    bundle = export(inverted, subnet, tmp_path / "bundle")
    assert all(each.placeholders for each in bundle.prompt_inputs)
    runner = Runner(bundle, make_engine("onnxruntime", "cpu"))
    pipe: Any = DiffusionPipeline.from_pretrained(inverted, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompt, negative = "a <toy> cross and <one>", "<toy>"
    its = pipe(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    mine = runner.run(prompt, negative=negative, seed=1).images
    np.testing.assert_allclose(mine / 255, its, atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize(
    "text", ["<toy>", "a <toy>, <toy>!", "<toy>_1 alone", "<one> <TOY> x", "none", ""]
)
def test_texts_are_written_out_as_diffusers_does(inverted: Path, text: str) -> None:
    pipe: Any = open_pipeline(inverted, weights=False).pipe
    fast = pipe.tokenizer.backend_tokenizer
    assert written_out(text, fast) == pipe.maybe_convert_prompt(text, pipe.tokenizer)


def test_a_pipeline_without_placeholders_has_none(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    made = TextConditioner(opened, Request(("",), steps=1, guidance=3))
    assert not any(each.placeholders for each in made.inputs)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("&amp;", "&"),
        lambda text: text.replace("<br>", " "),
        lambda text: text.encode("ascii", "ignore").decode(),
    ],
    ids=["entities", "tags", "accents"],
)
def test_a_pipeline_that_rewrites_its_texts_in_another_way_is_refused(
    pipelines: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    rewrite: Callable[[str], str],
) -> None:
    opened = open_pipeline(pipelines("three-levels"))

    def convert(self: Any, prompt: Any, tokenizer: Any) -> Any:
        del self, tokenizer
        return rewrite(prompt) if isinstance(prompt, str) else [rewrite(each) for each in prompt]

    monkeypatch.setattr(type(opened.pipe), "maybe_convert_prompt", convert)
    with pytest.raises(
        SearchError, match="does more to the prompt than clean it and put it into a longer text"
    ):
        TextConditioner(opened, Request(("",), steps=1, guidance=3))


@pytest.mark.parametrize(
    ("rewrite", "template"),
    [
        (lambda text: " ".join(text.split()), ("", ("strip", "squash"), "")),
        (lambda text: f"a photo of {text.strip()}.", ("a photo of ", ("strip",), ".")),
        (lambda text: html.unescape(html.unescape(text)), ("", ("unescape",), "")),
    ],
    ids=["blanks", "longer text", "entities"],
)
def test_what_a_pipeline_makes_of_its_texts_is_part_of_the_input(
    pipelines: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    rewrite: Callable[[str], str],
    template: tuple[str, tuple[str, ...], str],
) -> None:
    opened = open_pipeline(pipelines("three-levels"))

    def convert(self: Any, prompt: Any, tokenizer: Any) -> Any:
        del self, tokenizer
        return rewrite(prompt) if isinstance(prompt, str) else [rewrite(each) for each in prompt]

    monkeypatch.setattr(type(opened.pipe), "maybe_convert_prompt", convert)
    made = TextConditioner(opened, Request(("",), steps=1, guidance=3))
    assert {each.template for each in made.inputs} == {template}


def test_a_prompt_that_no_tokenizer_reads_is_refused(
    pipelines: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_pipeline(pipelines("three-levels"))
    pipe: Any = opened.pipe
    ids = pipe.tokenizer("fixed", padding="max_length", return_tensors="pt")

    def encode(*_: Any, **__: Any) -> Any:
        embeds = pipe.text_encoder(ids.input_ids)[0]
        return embeds, embeds

    monkeypatch.setattr(type(pipe), "encode_prompt", encode)
    with pytest.raises(SearchError, match="does not read its prompt through its tokenizers"):
        TextConditioner(opened, Request(("",), steps=1, guidance=3))
