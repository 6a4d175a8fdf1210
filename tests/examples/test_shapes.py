"""The shipped pipelines and their judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diffusers import DiTPipeline, StableDiffusionPipeline

from examples.shapes.evaluate import RECOMMENDED, judge_real, sample_pictures
from examples.shapes.pictures import ATTRIBUTES, caption, class_names, draw
from search.frontier.judge import Judge, frechet_distance

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"
NAMES = ("shapes-sd", "shapes-dit")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(SHAPES / "judge.onnx")


def test_a_seed_gives_the_same_pictures() -> None:
    first, second = (draw(8, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.captions() == second.captions()
    assert not np.array_equal(first.pixels, draw(8, np.random.default_rng(4)).pixels)


def test_no_word_belongs_to_two_attributes() -> None:
    words = [word for options in ATTRIBUTES.values() for word in options]
    assert len(words) == len(set(words))
    assert not set(words) & set(caption("", "", "", "", "").split())
    assert len(ATTRIBUTES["colour"]) >= 6
    assert len(ATTRIBUTES["shape"]) >= 4
    assert len(ATTRIBUTES["background"]) >= 4


def test_the_judge_reads_held_out_pictures(judge: Judge) -> None:
    found = judge_real(judge, draw(2048, np.random.default_rng(99)))
    assert min(found.values()) >= 0.99, found


def test_the_judge_sees_a_wrong_picture(judge: Judge) -> None:
    pictures = draw(256, np.random.default_rng(98))
    reading = judge.read(pictures.pixels)
    shifted = pictures.captions()[1:] + pictures.captions()[:1]
    assert max(judge.accuracy(reading, shifted).values()) < 0.7


def test_the_frechet_distance_sees_that_pictures_lack_variety(judge: Judge) -> None:
    rng = np.random.default_rng(97)
    real, other, narrow = (
        judge.read(draw(1024, rng, place=place).pixels).features for place in (None, None, "left")
    )
    assert frechet_distance(real, narrow) > 3 * frechet_distance(real, other)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_is_at_most_15_mb_of_safetensors(name: str) -> None:
    files = [path for path in (SHAPES / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_the_pipelines_are_what_they_say() -> None:
    sd = StableDiffusionPipeline.from_pretrained(SHAPES / "shapes-sd")
    config = sd.unet.config
    assert len(config.down_block_types) == 4
    assert sum("CrossAttn" in kind for kind in config.down_block_types) == 3
    assert config.layers_per_block == 2
    dit = DiTPipeline.from_pretrained(SHAPES / "shapes-dit")
    assert len(dit.transformer.transformer_blocks) >= 8
    assert list(dit.labels) == sorted(class_names())


def test_the_record_of_the_training_holds_the_bars() -> None:
    """`accuracy.json` is written by examples.shapes.evaluate, which the slow test repeats."""
    record = json.loads((SHAPES / "training" / "accuracy.json").read_text())
    assert min(record["judge on real pictures"].values()) >= 0.99
    for name, attributes in (
        ("shapes-sd", ("colour", "shape", "background")),
        ("shapes-dit", ("colour", "shape")),
    ):
        found = record[name][f"guidance {RECOMMENDED[name]:g}"]
        assert min(found[attribute] for attribute in attributes) >= 0.95, found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_samples_show_what_was_asked_for(judge: Judge, name: str) -> None:
    truth = draw(128, np.random.default_rng(96))
    names = class_names()
    prompts = truth.captions() if name == "shapes-sd" else [names[i] for i in truth.labels()]
    images = sample_pictures(SHAPES / name, prompts, RECOMMENDED[name])
    found = judge.accuracy(judge.read(images), prompts)
    assert min(found[a] for a in ("colour", "shape")) >= 0.95, found
    assert found.get("background", 1) >= 0.95, found


@pytest.mark.slow
def test_the_training_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.shapes.train", "-o", str(tmp_path)]
    subprocess.run([*command, "--scale", "0.001"], check=True)
    for name in NAMES:
        assert (tmp_path / name / "model_index.json").is_file()
    assert len(list((tmp_path / "training").glob("loss-*.csv"))) == 4
