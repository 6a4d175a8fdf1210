"""The body of a pipeline's loop against the pipeline itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from benchmarks.families import image, video
from search.model.answers import Answers
from search.model.body import Body, following
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.sizing import Sizing

TOYS = {toy.cls: toy for toy in reversed((*image.TOYS, *video.TOYS))}
CLASSES = ("WanPipeline", "QwenImagePipeline", "LTXPipeline", "Flux2KleinPipeline")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, str], Path]:
    folder = tmp_path_factory.mktemp("toys")

    def save(toy: Any, name: str) -> Path:
        path = folder / name
        if not path.exists():
            toy.build().save_pretrained(path)
        return path

    return save


def opened(path: Path, toy: Any) -> Pipeline:
    found = open_pipeline(path)
    sizes = ("height", "width", "num_frames")
    found.use_call({name: each for name, each in toy.call.items() if name not in sizes})
    return found


def ask(toy: Any, prompt: str) -> Request:
    size = toy.call["height"], toy.call["width"]
    frames = (toy.call["num_frames"],) if "num_frames" in toy.call else ()
    return Request((prompt,), 3, toy.guidance).sized((*size, *frames))


@pytest.mark.parametrize("name", CLASSES)
def test_it_predicts_what_the_pipeline_hands_to_its_scheduler(
    saved: Callable[[Any, str], Path], name: str
) -> None:
    toy = TOYS[name]
    path = saved(toy, name)
    pipeline, plain = opened(path, toy), DiffusionPipeline.from_pretrained(path)
    plain.set_progress_bar_config(disable=True)
    seen = []
    step = plain.scheduler.step

    def record(prediction: Any, timestep: Any, latents: Any, **kwargs: Any) -> Any:
        seen.append((prediction.clone(), timestep, latents.clone()))
        return step(prediction, timestep, latents, **kwargs)

    plain.scheduler.step = record
    request = ask(toy, "a red circle")
    pipeline.family.call(plain, request, torch.Generator().manual_seed(0))
    body = Body(pipeline, request)
    for prediction, timestep, latents in seen:
        with torch.no_grad():
            found = body(latents, timestep.float())
        torch.testing.assert_close(found, prediction, rtol=1e-4, atol=1e-5)


def test_a_question_that_was_not_asked_before_is_an_error() -> None:
    answers = Answers()
    with answers.recorded():
        pass
    source = compile("bool(tensor)", "/site-packages/diffusers/somewhere.py", "eval")
    with answers.repeated(), pytest.raises(RuntimeError, match="reads the value of a tensor"):
        eval(source, {"tensor": torch.ones(())})


def test_answers_are_given_again() -> None:
    answers = Answers()
    source = compile("tensor.item()", "/site-packages/diffusers/somewhere.py", "eval")
    with answers.recorded():
        eval(source, {"tensor": torch.tensor(3)})
    with answers.repeated():
        assert eval(source, {"tensor": torch.tensor(5)}) == 3


@pytest.mark.parametrize(
    ("noise", "asked", "size"),
    [
        ((4, 64, 96), {"height": 512, "width": 768}, (512, 768)),
        ((16, 21, 60, 104), {"height": 480, "width": 832, "num_frames": 81}, (480, 832, 81)),
        ((5, 16, 24, 16), {"height": 128, "width": 192, "num_frames": 17}, (128, 192, 17)),
        ((4, 8, 8), {"height": 18, "width": 18}, (16, 16)),
    ],
)
def test_the_size_follows_from_the_noise(
    noise: tuple[int, ...], asked: dict[str, int], size: tuple[int, ...]
) -> None:
    assert Sizing.of(noise, asked).size(noise) == size


def test_the_timestep_behind_another_is_found_in_the_grid() -> None:
    grid = torch.tensor([900.0, 500.0, 100.0])
    assert [following(grid, time).item() for time in grid[:-1]] == [500.0, 100.0]
    program = torch.export.export(_Following(grid), (grid[0],))
    assert [program.module()(time).item() for time in grid[:-1]] == [500.0, 100.0]


class _Following(torch.nn.Module):
    def __init__(self, grid: torch.Tensor) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        return following(self.grid, timestep)
