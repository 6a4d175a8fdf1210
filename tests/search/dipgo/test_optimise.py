"""The gradient search on a tiny pipeline: what it finds, repeats, resumes and shares."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.core.errors import SearchError
from search.dipgo.optimise import optimise
from search.dipgo.postprocess import Scores
from search.dipgo.recipe import PAPER, Consistency, DipGoRecipe, PrunerEncoder
from search.dipgo.records import DipGoProgress, DipGoRun
from search.runs.checkpoints import LOG
from search.supernet.supernet import CHOICES, CHOICES_WITH_DELTA, supernet
from tests.search.supernet.random_gates import opened

QUICK = DipGoRecipe(
    iterations=6,
    learning_rate=20.0,
    warmup=1,
    width=16,
    head=(8,),
    consistency=Consistency.LATENT,
    save_every=2,
)
LABELS = ("1", "2", "3")


def search(
    path: Path,
    recipe: DipGoRecipe = QUICK,
    *,
    steps: int = 4,
    seed: int = 0,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[DipGoProgress], None] | None = None,
) -> Scores:
    pipeline, whole = opened(path, steps=steps)
    choices = CHOICES_WITH_DELTA if recipe.delta else CHOICES
    with supernet(pipeline, whole, choices=choices, every=recipe.every) as net:
        return optimise(
            net,
            recipe,
            LABELS,
            seed=seed,
            folder=None if folder is None else DipGoRun(folder),
            resume=resume,
            progress=progress,
        )


@pytest.fixture
def path(pipelines: Callable[[str], Path]) -> Path:
    return pipelines("learned-variance")


@pytest.mark.parametrize("encoder", PrunerEncoder)
@pytest.mark.parametrize("delta", [False, True])
def test_the_search_switches_gates_off_while_it_stays_consistent(
    path: Path, encoder: PrunerEncoder, delta: bool
) -> None:
    recipe = dataclasses.replace(QUICK, iterations=15, encoder=encoder, delta=delta)
    seen: list[DipGoProgress] = []
    search(path, recipe, progress=seen.append)
    assert (seen[0].keep, seen[0].consistency) == (1, pytest.approx(0, abs=1e-6))
    assert seen[0].sparsity == pytest.approx(1)
    assert seen[-1].keep < 0.8
    assert 0 < seen[-1].consistency < 1


def test_without_a_sparsity_loss_everything_keeps_running(path: Path) -> None:
    for recipe in (dataclasses.replace(QUICK, alpha=0.0), dataclasses.replace(QUICK, tau=1.1)):
        seen: list[DipGoProgress] = []
        search(path, recipe, progress=seen.append)
        assert seen[-1].keep == 1


def test_all_kinds_of_consistency_can_be_asked_for(pipelines: Callable[[str], Path]) -> None:
    for kind in Consistency:
        recipe = dataclasses.replace(QUICK, consistency=kind, iterations=3, fresh_noise=True)
        scores = search(pipelines("three-levels"), recipe, steps=2)
        assert np.isfinite(scores.values).all()


def test_a_seed_makes_the_run_repeatable(path: Path) -> None:
    first, again, other = (search(path, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)


def test_a_resumed_run_ends_like_an_unbroken_one(path: Path, tmp_path: Path) -> None:
    whole = search(path, folder=tmp_path / "whole")

    def stop(entry: DipGoProgress) -> None:
        if entry.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(path, folder=tmp_path / "broken", progress=stop)
    iterations: list[int] = []
    resumed = search(
        path,
        folder=tmp_path / "broken",
        resume=True,
        progress=lambda entry: iterations.append(entry.iteration),
    )
    assert iterations == [4, 5], "the last checkpoint was written after iteration 3"
    assert np.array_equal(resumed.values, whole.values)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / name / LOG).read_text().splitlines()
        ]
        for name in ("whole", "broken")
    ]
    assert logs[0] == logs[1]
    assert [entry["iteration"] for entry in logs[0]] == list(range(6))


def test_a_finished_run_is_resumed_without_another_iteration(path: Path, tmp_path: Path) -> None:
    whole = search(path, folder=tmp_path)
    iterations: list[DipGoProgress] = []
    again = search(path, folder=tmp_path, resume=True, progress=iterations.append)
    assert not iterations
    assert np.array_equal(again.values, whole.values)


def test_a_run_is_resumed_to_be_saved_more_or_less_often(path: Path, tmp_path: Path) -> None:
    whole = search(path, folder=tmp_path)
    recipe = dataclasses.replace(QUICK, save_every=5)
    assert np.array_equal(search(path, recipe, folder=tmp_path, resume=True).values, whole.values)


def test_resuming_where_nothing_is_begins(path: Path, tmp_path: Path) -> None:
    assert np.array_equal(search(path, folder=tmp_path, resume=True).values, search(path).values)


def test_the_plot_is_a_picture(path: Path, tmp_path: Path) -> None:
    search(path, folder=tmp_path)
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_of_another_search_is_refused(path: Path, tmp_path: Path) -> None:
    search(path, folder=tmp_path)
    with pytest.raises(SearchError, match=r"is of a search that differs in seed; use the same"):
        search(path, folder=tmp_path, resume=True, seed=1)
    recipe = dataclasses.replace(QUICK, alpha=2.0)
    with pytest.raises(SearchError, match=r"is of a search that differs in recipe; use the same"):
        search(path, recipe, folder=tmp_path, resume=True)


@pytest.mark.slow
def test_two_processes_find_the_gates_of_one_with_twice_the_batch(
    path: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, dataclasses, pathlib, numpy\n"
        "from tests.search.dipgo.test_optimise import QUICK, search\n"
        "from accelerate import PartialState\n"
        "recipe = dataclasses.replace(QUICK, fresh_noise=True, alpha=0.05, iterations=25)\n"
        "values = search(pathlib.Path(sys.argv[1]), recipe).values\n"
        "state = PartialState()\n"
        "numpy.save(pathlib.Path(sys.argv[2]) / f'{state.process_index}.npy', values)\n"
        "assert state.num_processes == 2\n"
        "state.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program), str(path), str(tmp_path)]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = [np.load(tmp_path / f"{index}.npy") for index in range(2)]
    assert np.array_equal(both[0], both[1])
    recipe = dataclasses.replace(QUICK, fresh_noise=True, alpha=0.05, iterations=25)
    alone = search(path, dataclasses.replace(recipe, batch=2)).values
    single = search(path, recipe).values
    assert np.abs(both[0] - alone).max() <= 1e-4
    assert np.abs(both[0] - single).max() > 1e-2


def test_a_shorter_run_takes_longer_steps() -> None:
    short = PAPER.shortened(50)
    assert (short.iterations, short.learning_rate) == (50, pytest.approx(2.0))
    assert dataclasses.replace(short, iterations=1000, learning_rate=0.1) == PAPER
    with pytest.raises(SearchError, match="the recipe's iterations is 0; give 1 or more"):
        PAPER.shortened(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "the recipe's iterations is 0; give 1 or more"),
        ({"alpha": -1.0}, "the recipe's alpha is -1.0; give 0 or more"),
        ({"clip": 0.0}, "the recipe's clip is 0.0; give a norm above 0"),
    ],
)
def test_a_recipe_that_nothing_could_use_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        dataclasses.replace(PAPER, **change)


def test_a_search_without_prompts_is_refused(path: Path) -> None:
    pipeline, whole = opened(path, steps=2)
    with (
        supernet(pipeline, whole) as net,
        pytest.raises(SearchError, match="the gradient search has no prompts"),
    ):
        optimise(net, QUICK, ())
