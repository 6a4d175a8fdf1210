"""How closely an engine reproduces the gated PyTorch reference of the same SubNet."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.errors import NotFiniteError
from engines.runner import Result, Runner
from search.liveness import unroll
from search.names import PREDICTION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.base import Engine
    from exporter.bundle import Bundle
    from search.liveness import Value
    from search.model.reference import Trajectory
    from search.subnet import SubNet


@dataclass(frozen=True)
class Tolerance:
    """Relative L2 errors that are allowed.

    Attributes:
        call: in one call on the reference's own inputs.
        final: in the final latents of a whole run, and in the picture decoded from given latents.
    """

    call: float
    final: float


TOLERANCES = {
    "float32": Tolerance(call=1e-4, final=1e-3),
    "float16": Tolerance(call=1e-2, final=3e-2),
    "bfloat16": Tolerance(call=6e-2, final=2e-1),
}
"""By the dtype of the bundle; the reference is float32."""


@dataclass(frozen=True)
class CallParity:
    """One call of the program against the reference; errors are relative L2.

    Attributes:
        call: its number.
        step: of the SubNet.
        timestep: of the sampler.
        graph: file of the step graph.
        forced: error of each output when the call gets the reference's inputs and caches.
        free: error of the denoiser's input when the engine runs on its own.
    """

    call: int
    step: int
    timestep: float
    graph: str
    forced: dict[str, float]
    free: float

    @property
    def worst(self) -> tuple[str, float]:
        """The output with the largest error."""
        return max(self.forced.items(), key=lambda item: _comparable(item[1]))


@dataclass(frozen=True)
class Parity:
    """The verdict on a bundle.

    Attributes:
        engine: its name.
        device: where it ran.
        prompt: what was sampled.
        calls: every call.
        latents: relative L2 error of the final latents of a whole run.
        decoder: relative L2 error of the picture decoded from the reference's final latents.
        psnr: of the picture, in dB, against the reference's; infinite if equal, NaN if none.
        failures: one sentence each, in order of the steps; none if parity holds.
        tolerance: what was allowed.
    """

    engine: str
    device: str
    prompt: str
    calls: tuple[CallParity, ...]
    latents: float
    decoder: float
    psnr: float
    failures: tuple[str, ...]
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether parity holds."""
        return not self.failures

    @property
    def worst(self) -> float:
        """The largest error of a call on the reference's inputs; NaN is larger than any number."""
        return max((call.worst[1] for call in self.calls), key=_comparable, default=0.0)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; numbers that are not finite as `inf` and `nan`."""
        return {
            "schema": 1,
            "kind": "stepcarve-parity",
            "passed": self.passed,
            "call_tolerance": self.tolerance.call,
            "final_tolerance": self.tolerance.final,
            "worst_call": _as_json(self.worst),
            **{
                name: _as_json(value)
                for name, value in dataclasses.asdict(self).items()
                if name != "tolerance"
            },
        }


@dataclass(frozen=True)
class Pictures:
    """`[height, width, 3]` uint8 each.

    Attributes:
        full: by diffusers' own pipeline, every block at every step.
        reference: the SubNet in PyTorch.
        engine: the SubNet on the engine.
    """

    full: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    engine: NDArray[np.uint8]


def verify(
    bundle: Bundle,
    engine: Engine,
    pipeline: Path,
    *,
    prompt: str,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Parity, Pictures]:
    """Compare `engine` on `bundle` with the gated reference on the pipeline it came from.

    Args:
        bundle: to verify.
        engine: to run it on.
        pipeline: directory of the pipeline the bundle was exported from.
        prompt: what to sample; a class name or number for class-conditional pipelines.
        seed: of the noises.
        report: told, in a few words, what is being done.

    Raises:
        SearchError: the pipeline is not the one the bundle was exported from.
        EngineError: the bundle cannot be run at all.
    """
    subnet = bundle.subnet
    report("load engine")
    runner = Runner(bundle, engine)
    report("run PyTorch reference")
    latents = given_latents(bundle, seed)
    full, reference, values = _references(bundle, pipeline, prompt, seed, latents)
    report("compare call by call")
    forced = _teacher_forced(runner, subnet, prompt, reference, values)
    report("compare a whole run")
    inputs, result, trouble = _free_run(runner, prompt, seed, latents)
    calls = _call_parities(bundle, forced, inputs, reference)
    expected = reference.latents[-1].numpy(force=True)
    tolerance = TOLERANCES[bundle.dtype]
    final = math.nan if result is None else relative_l2(result.latents, expected)
    decoder = relative_l2(runner.decode(expected), _images(reference))
    shown = np.zeros_like(_picture(reference)) if result is None else result.images[0]
    pictures = Pictures(_picture(full), _picture(reference), shown)
    parity = Parity(
        engine=engine.name,
        device=engine.device,
        prompt=prompt,
        calls=calls,
        latents=final,
        decoder=decoder,
        psnr=math.nan if result is None else psnr(pictures.engine, pictures.reference),
        failures=(*_failures(calls, final, decoder, tolerance), *trouble),
        tolerance=tolerance,
    )
    return parity, pictures


def given_latents(bundle: Bundle, seed: int) -> NDArray[np.float32] | None:
    """Some for a bundle that begins from given latents; None for one that begins from noise."""
    if not bundle.sampler.given:
        return None
    return np.random.default_rng(seed).standard_normal(bundle.latent_shape, np.float32)


def _references(
    bundle: Bundle,
    pipeline: Path,
    prompt: str,
    seed: int,
    latents: NDArray[np.float32] | None,
) -> tuple[Trajectory, Trajectory, dict[tuple[int, int], NDArray[np.float32]]]:
    """The full sampler, the SubNet in PyTorch, and what it computed by (step, target)."""
    import torch

    from search.model.family import Request
    from search.model.pipeline import open_for
    from search.model.reference import sample

    subnet = bundle.subnet
    opened = open_for(subnet, pipeline, weights=True)
    request = Request(
        prompts=(prompt,) * bundle.latent_shape[0],
        steps=subnet.binding.inference_steps,
        guidance=bundle.guidance,
        latents=None if latents is None else torch.from_numpy(latents),
    ).sized(opened.size(subnet.binding.noise_shape))
    values: dict[tuple[int, int], NDArray[np.float32]] = {}

    def keep(step: int, target: int, tensor: torch.Tensor) -> None:
        values[step, target] = tensor.numpy(force=True).copy()

    draws, course = torch.Generator(), subnet.binding.course
    reference = sample(
        opened,
        request,
        subnet,
        observe=keep,
        generator=draws.manual_seed(seed),
        course=course,
    )
    full = sample(opened, request, generator=draws.manual_seed(seed), course=course)
    return full, reference, values


def _call_parities(
    bundle: Bundle,
    forced: list[dict[str, float]],
    inputs: list[NDArray[np.float32]],
    reference: Trajectory,
) -> tuple[CallParity, ...]:
    return tuple(
        CallParity(
            call=number,
            step=call.step,
            timestep=call.timestep,
            graph=bundle.graphs[call.graph],
            forced=errors,
            free=relative_l2(inputs[number], reference.inputs[call.step].numpy(force=True))
            if number < len(inputs)
            else math.nan,
        )
        for number, (call, errors) in enumerate(zip(bundle.calls, forced, strict=True))
    )


def _free_run(
    runner: Runner, prompt: str, seed: int, latents: NDArray[np.float32] | None
) -> tuple[list[NDArray[np.float32]], Result | None, list[str]]:
    """The denoiser's inputs, the result, and what stopped the run if something did."""
    inputs: list[NDArray[np.float32]] = []

    def keep(number: int, sample: NDArray[np.float32], prediction: object) -> None:
        del number, prediction
        inputs.append(sample.copy())

    try:
        return inputs, runner.run(prompt, latents=latents, seed=seed, on_call=keep), []
    except NotFiniteError as error:
        return inputs, None, [str(error)]


def _teacher_forced(
    runner: Runner,
    subnet: SubNet,
    prompt: str,
    reference: Trajectory,
    values: dict[tuple[int, int], NDArray[np.float32]],
) -> list[dict[str, float]]:
    """Errors of every output of every call when it is given the reference's inputs.

    A residual that a call writes though nobody reads it is not in the reference, and not compared.
    """
    unrolled = unroll(subnet)
    tensors = {name: tensor for tensor, name in subnet.topology.tensor_names.items()}

    def origin(step: int, name: str) -> Value:
        """What computed the tensor that is in place at `step`."""
        return unrolled.values[unrolled.effective[step][tensors[name]]]

    def value(step: int, name: str) -> NDArray[np.float32]:
        found = origin(step, name)
        return values[found.step, found.target]

    def is_known(step: int, name: str) -> bool:
        return name == PREDICTION or (step, origin(step, name).target) in values

    runner.prepare(prompt)
    errors = []
    for number, call in enumerate(runner.bundle.calls):
        outputs = runner.call(
            number,
            reference.inputs[call.step].numpy(force=True),
            {name: value(call.step, name) for name in call.reads},
        )
        expected = {
            name: reference.predictions[call.step].numpy(force=True)
            if name == PREDICTION
            else value(call.step, name)
            for name in outputs
            if is_known(call.step, name)
        }
        errors.append({name: relative_l2(outputs[name], expected[name]) for name in expected})
    return errors


def _failures(
    calls: tuple[CallParity, ...], final: float, decoder: float, tolerance: Tolerance
) -> list[str]:
    found = []
    for call in calls:
        name, error = call.worst
        if not error <= tolerance.call:
            found.append(
                f"call {call.call} (step {call.step}, timestep {call.timestep:g}, {call.graph}): "
                f"{name!r} differs by {error:.2e} from the PyTorch reference, allowed is "
                f"{tolerance.call:.0e}"
            )
    if not final <= tolerance.final:
        found.append(
            f"the final latents differ by {final:.2e} from the PyTorch reference, allowed is "
            f"{tolerance.final:.0e}"
        )
    if not decoder <= tolerance.final:
        found.append(
            f"the picture decoded from the reference's final latents differs by {decoder:.2e} from the "
            f"reference's, allowed is {tolerance.final:.0e}"
        )
    return found


def relative_l2(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """L2 norm of the difference over that of `expected`; NaN if either is not finite."""
    difference = np.linalg.norm(found.astype(np.float64) - expected)
    return float(difference / max(float(np.linalg.norm(expected.astype(np.float64))), 1e-30))


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of uint8 pictures; infinite if they are equal."""
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def _images(trajectory: Trajectory) -> NDArray[Any]:
    if trajectory.images is None:
        msg = "the run was not finished"
        raise ValueError(msg)
    return trajectory.images


def _picture(trajectory: Trajectory) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(_images(trajectory)[0] * 255).astype(np.uint8)
    return pixels


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _comparable(error: float) -> float:
    return math.inf if math.isnan(error) else error
