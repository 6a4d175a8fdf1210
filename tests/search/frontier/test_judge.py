"""The judge and the Fréchet distance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from examples.shapes.pictures import ATTRIBUTES, draw
from search.frontier.judge import Judge, frechet_distance

SHAPES = Path(__file__).parents[3] / "examples" / "shapes"


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(SHAPES / "judge.onnx")


def test_the_judge_reads_held_out_pictures(judge: Judge) -> None:
    pictures = draw(1500, np.random.default_rng(987_654))
    found = judge.accuracy(judge.read(pictures.pixels), pictures.captions())
    assert set(found) == set(ATTRIBUTES)
    assert min(found.values()) >= 0.99


def test_accuracy_notices_wrong_pictures(judge: Judge) -> None:
    pictures = draw(300, np.random.default_rng(5))
    others = draw(300, np.random.default_rng(6)).captions()
    found = judge.accuracy(judge.read(pictures.pixels), others)
    assert 0.05 < found["colour"] < 0.35, "one in six by chance"


def test_only_attributes_that_a_prompt_names_are_judged(judge: Judge) -> None:
    pictures = draw(50, np.random.default_rng(5))
    prompts = [f"{ATTRIBUTES['colour'][i]} thing" for i in pictures.attributes["colour"]]
    assert set(judge.accuracy(judge.read(pictures.pixels), prompts)) == {"colour"}


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (200_000, 3))
    b = rng.normal([1, 0, 0], [2, 1, 1], (200_000, 3))
    assert frechet_distance(a, b) == pytest.approx(1 + (2 - 1) ** 2, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_words_may_be_phrases_and_the_longest_in_the_prompt_counts(judge: Judge) -> None:
    reading = judge.read(draw(3, np.random.default_rng(6)).pixels)
    phrases = ("heart", "red heart", "on red", "on white")
    vocabulary = {"emoji": phrases[:2], "background": phrases[2:]}
    words = {"emoji": ("red heart", "heart", "heart"), "background": ("on white",) * 3}
    with mock.patch.object(judge, "vocabulary", vocabulary):
        found = judge.accuracy(
            replace(reading, words=words), ["flat red heart on white", "flat heart on red", "a dog"]
        )
    assert found == {"emoji": 1.0, "background": 0.5}


def test_logits_are_those_of_the_words(judge: Judge) -> None:
    reading = judge.read(draw(8, np.random.default_rng(7)).pixels)
    for name, logits in reading.logits.items():
        best = [judge.vocabulary[name][i] for i in logits.argmax(axis=1)]
        assert best == list(reading.words[name])
