"""Pictures of many prompts and seeds, and what their files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engines.base import EngineOptions, make_engine
from engines.errors import EngineError
from engines.generate import (
    Made,
    Order,
    Progress,
    generate,
    make,
    not_made,
    open_for,
    prompts_for,
    runs_of,
)
from engines.pictures import Generation
from engines.runner import Result, Runner
from engines.spread import Loaded, generate_spread
from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.exporting import export
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from search.runs.parallel import Where

ABOUT = Generation(
    prompt="a café, red",
    negative="blue",
    seed=3,
    image=1,
    images=2,
    guidance=7.5,
    steps=50,
    calls=14,
    scheduler="DDIMScheduler",
    subnet="deepcache interval 5 branch 0",
    pipeline="shapes-sd",
    given_latents=False,
    version="0.1.0",
)


@pytest.fixture(scope="module")
def bundle(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One or two images per run."""
    path = pipelines("three-levels")
    subnet = search(open_pipeline(path, weights=False), "full", Options(steps=2))
    return export(path, subnet, tmp_path_factory.mktemp("runs") / "bundle", batches=(1, 2))


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> Runner:
    return Runner(
        open_for(bundle.path, height=None, width=None, images=2), make_engine("onnxruntime", "cpu")
    )


@pytest.mark.parametrize(("asked", "held"), [(None, 1), (1, 1), (2, 2), (4, 2), (3, 1)])
def test_as_many_images_in_a_run_as_divide_what_is_asked(
    bundle: Bundle, asked: int | None, held: int
) -> None:
    assert open_for(bundle.path, height=None, width=None, images=asked).shape.images == held


@pytest.mark.parametrize("wrong", [0, -2])
def test_no_images_are_refused(bundle: Bundle, wrong: int) -> None:
    with pytest.raises(ExportError, match=f"images is {wrong}; give 1 or more"):
        open_for(bundle.path, height=None, width=None, images=wrong)


def test_further_runs_take_the_seeds_that_follow(runner: Runner, tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    made = generate(
        runner,
        Order(("red", "blue"), images=4, seed=7),
        tmp_path / "x.png",
        save_latents=tmp_path / "x.npy",
        report=lambda text, share=None: told.append((text, share)),
    )
    assert [(each.prompt, each.seed) for each in made] == [
        ("red", 7), ("red", 8), ("blue", 7), ("blue", 8),
    ]  # fmt: skip
    names = [path.name for each in made for path in each.images]
    assert names == [f"x-{number}.png" for number in range(8)]
    assert told[:2] == [("run 1 of 4, 2 calls", 0.0), ("run 1 of 4, call 1 of 2", 0.125)]
    assert told[-1] == ("run 4 of 4, call 2 of 2", 1.0)
    expected = runner.run("blue", seed=8)
    np.testing.assert_array_equal(np.load(tmp_path / "x-3.npy"), expected.latents)
    with Image.open(tmp_path / "x-7.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected.images[1])


def test_a_callback_is_told_of_each_call_and_can_stop(runner: Runner, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, int]] = []
    shapes: list[tuple[int, ...]] = []

    def callback(progress: Progress) -> None:
        seen.append((progress.prompt, progress.seed, progress.run, progress.call))
        preview = progress.preview()
        assert preview is not None
        shapes.append(preview.shape)
        if progress.run == 1:
            raise KeyboardInterrupt

    order = Order(("red", "blue"), images=2, seed=3)
    with pytest.raises(KeyboardInterrupt):
        generate(runner, order, tmp_path / "x.png", callback=callback)
    assert seen == [("red", 3, 0, 0), ("red", 3, 0, 1), ("blue", 3, 1, 0)]
    assert shapes == [(2, 24, 24, 3)] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-0.png", "x-1.png"]
    again = generate(runner, order, tmp_path / "y.png")
    assert len(again) == 2, "the runner still works"
    assert (tmp_path / "y-0.png").read_bytes() == (tmp_path / "x-0.png").read_bytes()


def test_a_picture_of_a_batch_can_have_a_seed_of_its_own(runner: Runner, bundle: Bundle) -> None:
    """As diffusers does with a list of generators."""
    found = runner.run("red", seed=(5, 9)).latents
    alone = Runner(bundle, make_engine("onnxruntime", "cpu"))
    for latents, seed in zip(found, (5, 9), strict=True):
        np.testing.assert_allclose(latents, alone.run("red", seed=seed).latents[0], atol=1e-4)
    with pytest.raises(EngineError, match="1 seeds are given, but a noise of shape"):
        runner.run("red", seed=(5,))


def test_numbers_have_as_many_digits_as_the_last(runner: Runner, tmp_path: Path) -> None:
    made = generate(runner, Order(("red",) * 6, images=2), tmp_path / "x.png")
    assert made[0].images[0].name == "x-00.png"
    assert made[-1].images[-1].name == "x-11.png"


def test_a_picture_says_how_it_was_made(runner: Runner, tmp_path: Path) -> None:
    order = Order(("a café",), images=2, seed=5, negative="дом", guidance=3.0)
    generate(runner, order, tmp_path / "x.png")
    with Image.open(tmp_path / "x-1.png") as image:
        texts = image.text
    about = Generation(**json.loads(texts["stepcarve"]))
    assert (about.prompt, about.negative, about.seed, about.image) == ("a café", "дом", 5, 1)
    assert (about.guidance, about.steps, about.calls) == (3.0, 2, 2)
    assert (about.subnet, about.pipeline) == ("full", "three-levels")
    assert texts["parameters"].splitlines()[:2] == ["a café", "Negative prompt: дом"]


def test_the_text_has_the_layout_of_other_programs() -> None:
    assert ABOUT.parameters(64, 32) == (
        "a café, red\nNegative prompt: blue\n"
        "Steps: 50, Sampler: DDIMScheduler, CFG scale: 7.5, Seed: 3, Size: 64x32, Model: shapes-sd, "
        "SubNet: deepcache interval 5 branch 0; 14 calls, Batch size: 2, Batch pos: 1, "
        "Version: stepcarve 0.1.0"
    )
    alone = replace(ABOUT, negative="", images=1, image=0)
    assert "Negative" not in alone.parameters(64, 32)
    assert "Batch" not in alone.parameters(64, 32)


def test_resuming_makes_what_is_missing_or_was_made_in_another_way(
    runner: Runner, tmp_path: Path
) -> None:
    order = Order(("red", "blue"), images=4, seed=7)
    out, latents = tmp_path / "x.png", tmp_path / "x.npy"
    generate(runner, order, out, save_latents=latents)
    assert generate(runner, order, out, save_latents=latents, resume=True) == []
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "x-1.png").unlink()
    (tmp_path / "x-2.png").write_bytes(b"half a picture")
    (tmp_path / "x-2.npy").unlink()
    Image.new("RGB", (24, 24)).save(tmp_path / "x-7.png")
    made = generate(runner, order, out, save_latents=latents, resume=True)
    assert [(each.prompt, each.seed) for each in made] == [
        ("red", 7), ("red", 8), ("blue", 7), ("blue", 8),
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "x-7.png").unlink()
    (last,) = generate(runner, order, out, save_latents=latents, resume=True)
    assert (last.prompt, last.seed, last.images[1].name) == ("blue", 8, "x-7.png")
    other = replace(order, guidance=2.5)
    assert len(generate(runner, other, out, resume=True)) == 4, "made with another scale"
    given = replace(order, images=2, latents=np.zeros(runner.bundle.latent_shape, np.float32))
    with pytest.raises(EngineError, match="do not include input latents or pictures"):
        generate(runner, given, out, resume=True)


@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_resuming_looks_at_the_frames_of_a_video(tmp_path: Path, name: str) -> None:
    binding = SimpleNamespace(inference_steps=2, scheduler="S")
    bundle = SimpleNamespace(
        shape=SimpleNamespace(frames=3, images=1), subnet=SimpleNamespace(binding=binding, method="full"),
        calls=[1, 2], guidance=5.0, pipeline="p", live_loras=(),
    )  # fmt: skip
    frames = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(1, 3, 4, 4, 3)
    result = Result(np.zeros(1, np.float32), frames, {"condition": 0.0})
    runner = SimpleNamespace(bundle=bundle, on_host=False, run=lambda *_, **__: result)
    order = Order(("red",), images=1)
    (run,) = runs_of(order, 1, tmp_path / name)
    for missing in (name, "x-frame-000.png"):
        assert not_made(bundle, order, [run]) == [run]  # type: ignore[arg-type]
        make(runner, order, run, 1)  # type: ignore[arg-type]
        assert not_made(bundle, order, [run]) == []  # type: ignore[arg-type]
        (tmp_path / missing).unlink()
    assert not_made(bundle, order, [run]) == [run]  # type: ignore[arg-type]


def spread(bundle: Bundle, out: Path, where: Where, *, resume: bool) -> list[Made]:
    order = Order(("red", "blue", "green"), images=2, seed=7)
    loaded = Loaded(bundle.path, bundle.shape, "onnxruntime", "cpu", EngineOptions())
    told: list[str] = []
    made = generate_spread(
        loaded, order, out, save_latents=None, resume=resume, jobs=2, where=where,
        report=lambda text, _share: told.append(text),
    )  # fmt: skip
    assert len(told) == len(made)
    return made


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(Where.LOCAL, marks=pytest.mark.slow),
        pytest.param(Where.RAY, marks=pytest.mark.slow),
    ],
)
def test_several_processes_make_the_same_and_resume(
    runner: Runner, tmp_path: Path, where: Where
) -> None:
    order = Order(("red", "blue", "green"), images=2, seed=7)
    generate(runner, order, tmp_path / "alone.png")
    made = spread(runner.bundle, tmp_path / "x.png", where, resume=False)
    assert [(each.prompt, each.seed) for each in made] == [("red", 7), ("blue", 7), ("green", 7)]
    for number in range(6):
        alone, other = (tmp_path / f"{name}-{number}.png" for name in ("alone", "x"))
        assert alone.read_bytes() == other.read_bytes()
    (tmp_path / "x-3.png").unlink()
    (again,) = spread(runner.bundle, tmp_path / "x.png", where, resume=True)
    assert again.prompt == "blue"
    assert spread(runner.bundle, tmp_path / "x.png", where, resume=True) == []


def test_given_latents_begin_one_run(runner: Runner, tmp_path: Path) -> None:
    noise = np.zeros(runner.bundle.latent_shape, np.float32)
    with pytest.raises(
        EngineError, match="--latents starts a single run, which makes 2 pictures here"
    ):
        generate(runner, Order(("red",), images=4, latents=noise), tmp_path / "x.png")


def test_prompts_are_given_once(bundle: Bundle) -> None:
    assert prompts_for(bundle, prompt=None, label=None, listed=["a", "b"]) == ("a", "b")
    assert prompts_for(bundle, prompt="a", label=None, listed=None) == ("a",)
    with pytest.raises(ExportError, match="given twice"):
        prompts_for(bundle, prompt="a", label=None, listed=["b"])
