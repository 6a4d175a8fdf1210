"""The shipped emoji pipeline, its judge and the record of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.emoji.evaluate import SAMPLERS, open_pipe, sample_pictures
from examples.emoji.retrieval import emoji_of, retrieve
from search.frontier.judge import Judge

EMOJI = Path(__file__).parents[2] / "examples" / "emoji"
TEXTS = (EMOJI / "prompts.txt").read_text().splitlines()
SHIPPED = list(SAMPLERS)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(EMOJI / "judge.onnx")


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """The real pictures of the first 64 captions."""
    sheet = np.asarray(Image.open(EMOJI / "training" / "real-held-out.png"))
    return sheet.reshape(8, 64, 8, 64, 3).swapaxes(1, 2).reshape(64, 64, 64, 3)


def test_the_judge_reads_real_held_out_pictures(judge: Judge, real: np.ndarray) -> None:
    found = retrieve(judge, real, TEXTS[:64])
    assert min(found.top1, found.style, found.background) >= 0.95, found


def test_the_judge_sees_a_wrong_picture(judge: Judge, real: np.ndarray) -> None:
    found = retrieve(judge, real, TEXTS[1:64] + TEXTS[:1])
    assert found.top5 < 0.05, found


def test_the_captions_name_emoji_that_the_judge_knows(judge: Judge) -> None:
    assert len(set(TEXTS)) == 512
    assert {emoji_of(text) for text in TEXTS} <= set(judge.vocabulary["emoji"])


def test_a_pipeline_is_at_most_40_mb_and_nothing_needs_unpickling() -> None:
    files = [
        path for path in EMOJI.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    for name in SHIPPED:
        own = [path for path in files if EMOJI / name in path.parents]
        assert sum(path.stat().st_size for path in own) <= 40_000_000
    kinds = {".json", ".safetensors", ".txt", ".py", ".md", ".onnx", ".png", ".csv"}
    assert {path.suffix for path in files} <= kinds


@pytest.mark.parametrize("name", SHIPPED)
def test_the_pipeline_is_what_it_says(name: str) -> None:
    pipe = open_pipe(EMOJI / name)
    parts = {
        name: sum(p.numel() for p in getattr(pipe, name).parameters())
        for name in ("transformer", "vae")
    }
    assert 6_000_000 <= parts["transformer"] <= 20_000_000
    assert len(pipe.transformer.transformer_blocks) == 6
    longest = max(len(ids) for ids in pipe.tokenizer(TEXTS).input_ids)
    assert longest <= pipe.tokenizer.model_max_length == 16


@pytest.mark.parametrize("name", SHIPPED)
def test_the_record_has_the_judge_and_the_curve(name: str) -> None:
    """`figures-NAME.json` is written by examples.emoji.evaluate."""
    record = json.loads((EMOJI / "training" / f"figures-{name}.json").read_text())
    assert record["judge on real held-out pictures"]["top1"] >= 0.95
    calls = [f"{n} calls" for n in SAMPLERS[name].calls]
    assert [name for name in record if name.endswith("calls")] == calls


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_samples_are_as_good_as_the_record_says(judge: Judge, name: str) -> None:
    record = json.loads((EMOJI / "training" / f"figures-{name}.json").read_text())
    sampler = SAMPLERS[name]
    calls = sampler.calls[0]
    images = sample_pictures(open_pipe(EMOJI / name), TEXTS[:64], calls, sampler.guidance)
    found = retrieve(judge, images, TEXTS[:64])
    # 64 of 512 captions: within three standard deviations.
    expected = record[f"{calls} calls"]["top5"]
    assert abs(found.top5 - expected) <= 3 * (max(expected * (1 - expected), 0.01) / 64) ** 0.5
