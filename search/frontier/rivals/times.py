"""Times chosen by dynamic programming on a reference trajectory, for the sampler's own rows.

AYS is "Align Your Steps" (arXiv 2404.14507): the times minimise a bound on the divergence of the
discretised process. OSS is "Optimal Stepsize for Diffusion Sampling" (arXiv 2503.21774): the student's
states step by step come as close to the teacher's as they can. Both are reproduced from their papers on
the full sampler's own grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.core.errors import SearchError
from search.core.timestep_grid import TimestepGrid
from search.frontier.candidate import Candidate
from search.frontier.rivals.holding import calling, held
from search.frontier.rivals.solvers import DPM_SCHEDULER
from search.frontier.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search.fitting.trajectories import Trajectories
    from search.frontier.calibration import Calibration
    from search.frontier.series import Report

FEW = 4
"""Pictures that OSS follows: it calls the denoiser at every state of its program."""


def _ays(calibration: Calibration, report: Report) -> list[Candidate]:
    report("ays: the bound on the reference trajectory")
    cost = divergence(calibration)
    found = []
    for keep, count in calibration.counts().items():
        steps = cheapest_path(cost, count)
        tries = [held(calibration, AYS, keep, steps, "own rows")]
        tries += _multistep(calibration, keep, steps)
        found.append(calibration.best(tries))
    return found


def divergence(calibration: Calibration) -> NDArray[np.float64]:
    """What it costs to hold the clean latents of step i until step j, `[T, T + 1]`; infinite for j <= i.

    The bound (theorem 3.1) is the integral of || D(x_t, t) - D(x_i, t_i) ||^2 / t^3 over the noise
    level t, D the clean latents, so each step of the grid weighs half the growth of 1 / t^2. It has no
    end at t = 0, and stops at the last step of the grid.
    """
    from search.model.noise_levels import noise_levels

    whole, runs = calibration.whole, calibration.fitted_on
    scheduler = calibration.pipeline.pipe.scheduler
    levels = np.array(noise_levels(scheduler, whole.timesteps))
    clean = _clean(calibration, runs, levels)
    square = (clean**2).sum(1)
    gram = clean @ clean.T
    apart = np.maximum(square[:, None] + square[None] - 2 * gram, 0)  # [T, T], from i at k
    weight = np.diff(levels**-2.0) / 2
    pieces = (apart[:, 1:] + apart[:, :-1]) / 2 * weight  # [T, T - 1], of the step k -> k + 1
    steps = len(levels)
    cost = np.full((steps, steps + 1), np.inf)
    for i in range(steps):
        cost[i, i + 1 : steps] = np.cumsum(pieces[i, i:])
        cost[i, steps] = pieces[i, i:].sum()
    return cost


def _clean(
    calibration: Calibration, runs: Trajectories, levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The clean latents that each step points to, `[T, S * ...]`, by what the denoiser predicts."""
    scheduler: Any = calibration.pipeline.pipe.scheduler
    latents, predictions = on_grid(calibration, runs)
    flow = type(scheduler).__name__.startswith("FlowMatch")
    kind = "flow_prediction" if flow else scheduler.config.get("prediction_type", "epsilon")
    noise = levels if flow else levels / np.sqrt(1 + levels**2)
    picture = 1 - levels if flow else 1 / np.sqrt(1 + levels**2)
    a, s = picture[:, None], noise[:, None]
    match kind:
        case "epsilon":
            return (latents - s * predictions) / a
        case "v_prediction":
            return a * latents - s * predictions
        case "flow_prediction":
            return latents - s * predictions
        case "sample":
            return predictions
    msg = f"AYS needs the clean latents, which predictions of {kind!r} do not give; leave ays out"
    raise SearchError(msg)


def on_grid(
    calibration: Calibration, runs: Trajectories
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The denoiser's inputs and predictions at the full sampler's steps, each `[T, S * ...]`."""
    scale = 1 / runs.final.flatten(1).norm(dim=1)
    found = []
    for values in (runs.latents, runs.predictions):
        flat = values.flatten(2) * scale[:, None]
        rows = [_at(runs.position_of(timestep), flat) for timestep in calibration.whole.timesteps]
        found.append(np.stack(rows))
    return found[0], found[1]


def _at(position: float, values: Any) -> NDArray[np.float64]:
    """A row of `values` `[T, ...]`, or between two of them."""
    low = int(position)
    high = min(low + 1, len(values) - 1)
    mixed = values[low] + (position - low) * (values[high] - values[low])
    found: NDArray[np.float64] = mixed.flatten().double().numpy(force=True)
    return found


def cheapest_path(cost: NDArray[np.float64], count: int) -> list[int]:
    """The `count` steps from 0 on with the least sum of costs; `cost[i, j]` from a step to the next or the end."""
    steps = len(cost)
    total = np.full(steps, np.inf)
    total[0] = 0
    origins = []
    for _ in range(count - 1):
        sums = total[:, None] + cost[:, :steps]
        origins.append(sums.argmin(axis=0))
        total = sums.min(axis=0)
    path = [int((total + cost[:, steps]).argmin())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]


def _multistep(calibration: Calibration, keep: float, steps: Sequence[int]) -> list[Candidate]:
    """The same times with DPM-Solver++, which AYS is published with, where the pipeline can use it."""
    from search.frontier.calibration import scheduler
    from search.model.scheduler import GridSettings, read_sampler

    times = tuple(calibration.whole.timesteps[step] for step in steps)
    pipeline = calibration.pipeline
    try:
        with scheduler(pipeline, DPM_SCHEDULER, {"solver_order": 2}):
            settings = GridSettings(TimestepGrid(len(times), custom_timesteps=times), times)
            table = read_sampler(pipeline.pipe.scheduler, settings)
    except SearchError:
        return []
    label = "DPM-Solver++"
    subnet = calling(calibration.whole, times, table, f"ays {label}")
    return [Candidate(AYS, f"keep {keep:g} {label}", keep, subnet, table)]


@dataclass(frozen=True)
class _State:
    """The student at a step: the steps that it called at, and their predictions."""

    steps: tuple[int, ...] = ()
    predictions: tuple[Any, ...] = ()


def _oss(calibration: Calibration, report: Report) -> list[Candidate]:
    counts = calibration.counts()
    runs = calibration.fitted_on.first_pictures(min(FEW, len(calibration.fitted_on.noise)))
    paths = student_paths(calibration, runs, max(counts.values()), report)
    return [held(calibration, OSS, keep, paths[count - 1]) for keep, count in counts.items()]


def student_paths(
    calibration: Calibration, runs: Trajectories, most: int, report: Report
) -> list[tuple[int, ...]]:
    """The best steps of 1, 2, ... `most` calls.

    The state after m calls at step j comes from the state after m - 1 calls whose longer step lands
    closest to the teacher's latents at j; from there the denoiser is called again.
    """
    whole = calibration.whole
    targets = [runs.latents_at(_tensor(runs, runs.position_of(t))) for t in whole.timesteps]
    states = {0: _called(calibration, runs, _State(), 0, runs.first * runs.noise)}
    found = []
    for calls in range(1, most + 1):
        report(f"oss: {calls} of {most} calls", calls / most)
        _, state, _ = _closest(calibration, runs, states, whole.steps, runs.final)
        found.append(state.steps)
        if calls == most:
            break
        following = {}
        for step in range(calls, whole.steps):
            before = {at: state for at, state in states.items() if at < step}
            _, state, sample = _closest(calibration, runs, before, step, targets[step])
            following[step] = _called(calibration, runs, state, step, sample)
        states = following
    return found


def _closest(
    calibration: Calibration, runs: Trajectories, states: dict[int, _State], step: int, target: Any
) -> tuple[float, _State, Any]:
    """The state whose longer step lands closest to `target`: the distance, it, and where it lands."""
    from search.model.scheduler import combine

    table = calibration.table
    row = table.final if step == len(table.inputs) else table.inputs[step]
    landed = []
    for state in states.values():
        values = [runs.noise, *(state.predictions[_last(state.steps, at)] for at in range(step))]
        sample = combine(row[: 1 + step], values)
        landed.append((float((sample - target).norm()), state, sample))
    return min(landed, key=lambda each: each[0])


def _last(steps: Sequence[int], here: int) -> int:
    """Which of the calls is the last one until step `here`."""
    return sum(step <= here for step in steps) - 1


def _called(
    calibration: Calibration, runs: Trajectories, state: _State, step: int, sample: Any
) -> _State:
    """The state that calls at `step` too."""
    timestep = _tensor(runs, calibration.whole.timesteps[step])
    made = runs.predictor(sample, timestep)
    return _State((*state.steps, step), (*state.predictions, made))


def _tensor(runs: Trajectories, value: float) -> Any:
    """A number where the runs are."""
    return runs.timesteps.new_tensor(value)


AYS = Series("ays", "times as AYS chooses them", "#148f77", "p", _ays)
OSS = Series("oss", "times as OSS chooses them", "#0e6655", "h", _oss)
