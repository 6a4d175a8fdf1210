"""Distilling pipelines that have lost blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from search.core.actions import Action
from search.core.errors import SearchError
from search.core.subnet import Granularity, SubNet
from search.core.table import with_actions
from search.distill import distill as module
from search.distill import training
from search.distill.data import Draws, read_folder
from search.distill.distill import distill
from search.distill.recipe import PRECISIONS, DistillRecipe, Loss
from search.distill.records import DistillRun
from search.distill.training import train
from search.laptop.noising import Noising
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline

SHORT = DistillRecipe(iterations=4, batch=2, warmup=1, save_every=2)
GONE = ("down_blocks.1.attentions.0", "up_blocks.1.resnets.1")


@pytest.fixture
def teacher(pipelines: Callable[[str], Path]) -> Pipeline:
    return open_pipeline(pipelines("three-levels"))


def draws_for(pipeline: Pipeline, shape: tuple[int, ...] = (4, 12, 12)) -> Draws:
    latents = np.random.default_rng(0).standard_normal((6, 2, *shape)).astype(np.float32)
    return Draws(pipeline, np.abs(latents), ["a red circle", "a cross"] * 3, (24, 24))


def weights(module: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = module.state_dict()
    return found


def same(first: Any, second: Any) -> bool:
    ours, others = weights(first), weights(second)
    return ours.keys() == others.keys() and all(torch.equal(ours[k], others[k]) for k in ours)


def test_training_brings_the_student_closer(teacher: Pipeline) -> None:
    recipe = replace(SHORT, iterations=30, batch=4, task_weight=0.0)
    _, done = train(teacher, GONE, draws_for(teacher), recipe)
    assert sum(e.output for e in done[-5:]) < sum(e.output for e in done[:5])


@pytest.mark.parametrize("loss", list(Loss))
def test_every_loss_has_its_terms(teacher: Pipeline, loss: Loss) -> None:
    _, done = train(teacher, GONE, draws_for(teacher), replace(SHORT, iterations=1, loss=loss))
    assert (done[0].feature > 0) is (loss is not Loss.OUTPUT)


def test_losses_differ_in_their_features_alone(teacher: Pipeline) -> None:
    recipes = [replace(SHORT, iterations=1, loss=loss) for loss in Loss]
    first = [train(teacher, GONE, draws_for(teacher), recipe)[1][0] for recipe in recipes]
    assert len({(entry.task, entry.output) for entry in first}) == 1
    assert len({entry.feature for entry in first}) == len(first)


def test_the_teacher_stays_as_it_is(teacher: Pipeline, pipelines: Callable[[str], Path]) -> None:
    train(teacher, GONE, draws_for(teacher), SHORT)
    assert same(teacher.denoiser, open_pipeline(pipelines("three-levels")).denoiser)


def test_resumed_is_bit_for_bit_the_same_as_uninterrupted(
    teacher: Pipeline, tmp_path: Path
) -> None:
    draws = draws_for(teacher)
    recipe = replace(SHORT, iterations=5, accumulate=2)
    whole, all_of_it = train(teacher, GONE, draws, recipe, folder=DistillRun(tmp_path / "whole"))

    def stop(text: str, _share: float | None = None) -> None:
        if text.startswith("iteration 4"):
            raise KeyboardInterrupt

    folder = DistillRun(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        train(teacher, GONE, draws, recipe, folder=folder, report=stop)
    resumed, done = train(
        teacher, GONE, draws_for(teacher), recipe, folder=folder, start=folder.load(resume=True)
    )
    assert same(whole, resumed)
    assert [(e.task, e.feature) for e in done] == [(e.task, e.feature) for e in all_of_it]
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(5))


def test_another_seed_gives_another_student(teacher: Pipeline) -> None:
    draws = draws_for(teacher)
    first, _ = train(teacher, GONE, draws, SHORT)
    second, _ = train(teacher, GONE, draws, replace(SHORT, seed=1))
    assert not same(first, second)


def test_a_checkpoint_of_another_run_is_refused(teacher: Pipeline, tmp_path: Path) -> None:
    draws, folder = draws_for(teacher), DistillRun(tmp_path)
    train(teacher, GONE, draws, SHORT, folder=folder)
    with pytest.raises(
        SearchError, match="is of a distillation that differs in recipe; use the same"
    ):
        train(
            teacher,
            GONE,
            draws,
            replace(SHORT, seed=1),
            folder=folder,
            start=folder.load(resume=True),
        )


@pytest.mark.parametrize(
    ("captions", "scale"), [(["a blue circle", "a cross"], 1.0), (["a red circle", "a cross"], 2.0)]
)
def test_a_checkpoint_of_other_pictures_is_refused(
    teacher: Pipeline, tmp_path: Path, captions: list[str], scale: float
) -> None:
    latents = np.ones((2, 2, 4, 12, 12), np.float32)
    first = Draws(teacher, latents, ["a red circle", "a cross"], (24, 24))
    other = Draws(teacher, scale * latents, captions, (24, 24))
    folder = DistillRun(tmp_path)
    train(teacher, GONE, first, SHORT, folder=folder)
    with pytest.raises(
        SearchError, match="is of a distillation that differs in data; use the same"
    ):
        train(teacher, GONE, other, SHORT, folder=folder, start=folder.load(resume=True))


def test_minutes_limit_the_iterations(teacher: Pipeline) -> None:
    recipe = replace(SHORT, iterations=10**6, minutes=1e-6)
    _, done = train(teacher, GONE, draws_for(teacher), recipe)
    assert len(done) == 10


def test_a_gradient_that_is_not_finite_is_refused(teacher: Pipeline) -> None:
    recipe = replace(SHORT, task_weight=float("inf"))
    with pytest.raises(SearchError, match="the gradient of iteration 0 is not finite; lower"):
        train(teacher, GONE, draws_for(teacher), recipe)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_is_not_finite_is_refused(
    teacher: Pipeline, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    # CPUs have no fp16, whose scaler lets gradients pass that are not finite.
    monkeypatch.setattr(training, "Accelerator", lambda cpu, **_: Accelerator(cpu=cpu))
    draws = Draws(teacher, np.full((2, 2, 4, 12, 12), np.nan, np.float32), ["a", "b"], (24, 24))
    with pytest.raises(SearchError, match="the loss of iteration 0 is not finite; lower"):
        train(teacher, GONE, draws, replace(SHORT, precision=precision))


@pytest.fixture
def new_accelerator() -> Iterator[None]:
    """Accelerate has one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("new_accelerator")
def test_a_float32_student_learns_from_a_teacher_in_half_precision(
    pipelines: Callable[[str], Path],
) -> None:
    teacher = open_pipeline(pipelines("three-levels"), dtype="bfloat16")
    draws = draws_for(teacher)
    student, done = train(teacher, GONE, draws, replace(SHORT, dtype="bfloat16"))
    assert teacher.dtype == "bfloat16"
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    plain = open_pipeline(pipelines("three-levels"))
    _, expected = train(plain, GONE, draws_for(plain), SHORT)
    for mine, theirs in zip(done, expected, strict=True):
        assert 0 < abs(mine.output - theirs.output) < 0.05 * theirs.output


def test_float16_is_not_trained_in_on_the_cpu(tmp_path: Path) -> None:
    recipe = replace(SHORT, dtype="float16")
    with pytest.raises(SearchError, match="use --dtype bfloat16, or --precision no"):
        module.distill(tmp_path, None, None, recipe, tmp_path / "out", folder=tmp_path)  # type: ignore[arg-type]


def test_transformers_are_distilled_too(pipelines: Callable[[str], Path]) -> None:
    teacher = open_pipeline(pipelines("learned-variance"))
    latents = np.abs(np.random.default_rng(0).standard_normal((4, 2, 4, 8, 8)).astype(np.float32))
    size = teacher.size((4, 8, 8))
    draws = Draws(teacher, latents, ["0", "1", "2", "3"], size)
    recipe = replace(SHORT, iterations=20, batch=4, task_weight=0.0)
    _, done = train(teacher, ["transformer_blocks.1"], draws, recipe)
    assert sum(e.output for e in done[-4:]) < sum(e.output for e in done[:4])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red circle")
    return folder


def skipping(path: Path, names: tuple[str, ...]) -> SubNet:
    options = Options(steps=3, granularity=Granularity.LAYER)
    whole = full(open_pipeline(path, weights=False), options)
    blocks = whole.topology.blocks
    return with_actions(
        whole, lambda _, b: Action.SKIP if blocks[b] in names else Action.RUN, "by hand"
    )


def test_a_pipeline_directory_comes_out(
    pipelines: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    path, out = pipelines("three-levels"), tmp_path / "out"
    done = distill(
        path,
        skipping(path, GONE),
        read_folder(pictures),
        SHORT,
        out,
        folder=tmp_path / "run",
    )
    opened = open_pipeline(out)
    assert opened.removed == tuple(sorted(GONE)) == done.removed
    assert done.params[1] == sum(p.numel() for p in opened.denoiser.parameters()) < done.params[0]
    assert (tmp_path / "run" / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".out*"))


def test_what_was_distilled_can_be_pruned_again(
    pipelines: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    data, short = read_folder(pictures), replace(SHORT, iterations=1)
    path = pipelines("three-levels")
    distill(path, skipping(path, GONE), data, short, first, folder=tmp_path / "a")
    again = ("mid_block.resnets.0", *GONE)
    distill(first, skipping(first, again), data, short, second, folder=tmp_path / "b")
    assert open_pipeline(second, weights=False).removed == tuple(sorted(again))


def test_an_existing_directory_is_refused(
    pipelines: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    path = pipelines("three-levels")
    with pytest.raises(SearchError, match="exists; remove it or choose another name"):
        distill(
            path,
            skipping(path, GONE),
            read_folder(pictures),
            SHORT,
            tmp_path,
            folder=tmp_path / "run",
        )


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls that encode pictures."""
    calls: list[object] = []
    original = module.encode_pictures
    monkeypatch.setattr(module, "encode_pictures", lambda *a: calls.append(a) or original(*a))
    return calls


def test_a_subnet_that_reuses_is_refused_before_pictures_are_encoded(
    pipelines: Callable[[str], Path], pictures: Path, tmp_path: Path, encoding: list[object]
) -> None:
    subnet = skipping(pipelines("three-levels"), GONE)
    row = tuple(Action.REUSE if a is Action.RUN else a for a in subnet.actions[0])
    reusing = replace(subnet, actions=(*subnet.actions[:-1], row))
    with pytest.raises(SearchError, match="only blocks that every step skips"):
        distill(
            pipelines("three-levels"),
            reusing,
            read_folder(pictures),
            SHORT,
            tmp_path / "out",
            folder=tmp_path / "run",
        )
    assert not encoding


def test_a_scheduler_is_refused_before_pictures_are_encoded(
    pipelines: Callable[[str], Path],
    pictures: Path,
    tmp_path: Path,
    encoding: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> Noising:
        msg = "unknown scheduler"
        raise SearchError(msg)

    monkeypatch.setattr(Noising, "of", refuse)
    path = pipelines("three-levels")
    with pytest.raises(SearchError, match="unknown scheduler"):
        distill(
            path,
            skipping(path, GONE),
            read_folder(pictures),
            SHORT,
            tmp_path / "out",
            folder=tmp_path / "run",
        )
    assert not encoding


@pytest.mark.parametrize(
    ("gone", "seed", "message"),
    [(GONE, 1, "that differs in recipe;"), (GONE[:1], 0, "that differs in removed;")],
)
def test_a_checkpoint_is_refused_before_pictures_are_encoded(
    pipelines: Callable[[str], Path],
    pictures: Path,
    tmp_path: Path,
    encoding: list[object],
    gone: tuple[str, ...],
    seed: int,
    message: str,
) -> None:
    path, recipe = pipelines("three-levels"), replace(SHORT, iterations=1)
    data, folder = read_folder(pictures), tmp_path / "run"
    distill(path, skipping(path, GONE), data, recipe, tmp_path / "first", folder=folder)
    (folder / "latents.npy").unlink()
    with pytest.raises(SearchError, match=message):
        distill(
            path,
            skipping(path, gone),
            data,
            replace(recipe, seed=seed),
            tmp_path / "second",
            folder=folder,
            resume=True,
        )
    assert len(encoding) == 1


def test_a_checkpoint_is_read_once(
    pipelines: Callable[[str], Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, folder = pipelines("three-levels"), tmp_path / "run"
    ask = (path, skipping(path, GONE), read_folder(pictures), replace(SHORT, iterations=1))
    distill(*ask, tmp_path / "first", folder=folder)
    read: list[object] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (read.append(a[0]), load(*a, **k))[1])
    distill(*ask, tmp_path / "second", folder=folder, resume=True)
    assert read == [folder / "checkpoint.pt"]


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from search.distill.training import train
from search.distill.recipe import DistillRecipe
from search.model.opening import open_pipeline
from tests.search.distill.test_distill import GONE, SHORT, draws_for
from accelerate import PartialState
teacher = open_pipeline(Path(sys.argv[1]))
student, done = train(teacher, GONE, draws_for(teacher), SHORT)
torch.save(student.state_dict(), Path(sys.argv[2]) / f"{PartialState().process_index}.pt")
"""


@pytest.mark.slow
def test_processes_agree_on_one_student(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launch, str(script), str(pipelines("three-levels")), str(tmp_path)]
    root = str(Path(__file__).parents[3])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": root}, timeout=600)
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone, _ = train(
        open_pipeline(pipelines("three-levels")),
        GONE,
        draws_for(open_pipeline(pipelines("three-levels"))),
        SHORT,
    )
    assert any(not torch.equal(first[name], tensor) for name, tensor in weights(alone).items())
