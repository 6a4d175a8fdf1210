"""A bundle as a model of Triton's Python backend; Triton loads this file beside the bundle."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.base import EngineOptions, make_engine
from engines.batches import Batches, Wanted
from engines.errors import EngineError
from engines.triton.inputs import GUIDANCE, IMAGE, NEGATIVE, PROMPT, SEED, wanted_of
from exporter.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HELD = Path(__file__).parent / "bundle"


class TritonPythonModel:
    """Pictures for prompts. Equal rows of all requests that arrive together share runs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle on the engine and device that the configuration names."""
        parameters = json.loads(args["model_config"])["parameters"]
        given = {name: each["string_value"] for name, each in parameters.items()}
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        if device == "cuda":
            use_gpu(args["model_instance_device_id"])
        engine = make_engine(given["engine"], device, EngineOptions(**json.loads(given["options"])))
        size = {name: int(given[name]) for name in ("height", "width")}
        self.bundle = Bundle.open(HELD, **size)
        self._batches = Batches(self.bundle, engine)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request: its pictures, or an error in a sentence."""
        asked = [self._wanted(request) for request in requests]
        flat = [each for rows in asked if not isinstance(rows, EngineError) for each in rows]
        made = iter(self._batches.make(flat))
        return [
            _refused(rows)
            if isinstance(rows, EngineError)
            else _response(rows, [next(made) for _ in rows])
            for rows in asked
        ]

    def finalize(self) -> None:
        """Free the loaded graphs; Triton calls it before it ends the process."""
        del self._batches

    def _wanted(self, request: Any) -> list[Wanted] | EngineError:
        """The pictures that a request asks for."""
        names = PROMPT, NEGATIVE, GUIDANCE, SEED
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in names]
        given = {n: t.as_numpy() for n, t in zip(names, tensors, strict=True) if t is not None}
        try:
            return wanted_of(self.bundle, given, draw=lambda: secrets.randbits(32))
        except EngineError as error:
            return error


def use_gpu(number: str) -> None:
    """Let this process, which has one instance of the model, see no other GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number


def _response(rows: Sequence[Wanted], made: Sequence[Any]) -> Any:
    for each in made:
        if isinstance(each, EngineError):
            return _refused(each)
    seeds = np.array([[each.seed] for each in rows], np.uint32)
    tensors = [pb_utils.Tensor(IMAGE, np.stack(made)), pb_utils.Tensor(SEED, seeds)]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _refused(error: EngineError) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
