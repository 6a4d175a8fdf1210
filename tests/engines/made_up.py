"""Made-up parity: two engines, of which one is wrong at a call."""

from __future__ import annotations

import math

from engines.parity.measure import Difference
from engines.parity.record import CallParity, Parity, Rung

PROMPT = "a <b>red</b> circle & {more}"


def difference(relative: float, floor: float = 1e-6, k: float = 5) -> Difference:
    return Difference(relative, relative, 1.0, 90.0, floor, k * floor, passed=relative <= k * floor)


def rung(name: str, forced: list[float], failures: tuple[str, ...] = ()) -> Rung:
    calls = tuple(
        CallParity(
            call=n,
            step=n,
            timestep=900.0 - n,
            graph=f"step_00{n % 2}.onnx",
            forced={"noise_prediction": difference(error)},
            free=difference(2e-6),
        )
        for n, error in enumerate(forced)
    )
    finals = {"latents": difference(1e-6), "decoder": difference(3e-7)}
    against = "gated PyTorch in float32"
    return Rung(name, against, "float32", calls, finals, math.inf, True, (), failures)


def made_up(*engines: Rung) -> Parity:
    plain = CallParity(0, 0, 900.0, "", {"noise_prediction": difference(0.0, 0.0)}, None)
    context = Rung(
        "gated PyTorch", "diffusers' own pipeline", "float32", (plain,), {}, math.inf, True, (), ()
    )
    manifest = Rung("manifest", "the SubNet", "", (), {}, math.nan, True, (), ())
    return Parity(PROMPT, "", 7.5, 3, 5.0, (manifest, context, *engines), 30.0, ())


RIGHT = rung("onnxruntime on cpu", [1e-6, 2e-6, 1.5e-6, 2e-6])
WRONG = rung(
    "openvino on cpu",
    [1e-6, 3e-4, 1.5e-6, 2e-6],
    ("call 1 (step 1, timestep 899, step_001.onnx): 'noise_prediction' differs by 3.00e-04",),
)
