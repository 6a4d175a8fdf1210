"""What the documentation of Triton's Python backend says of `triton_python_backend_utils`, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


class Tensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self._name, self._value = name, value

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._value


class TritonError:
    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        return self._message


@dataclass
class InferenceRequest:
    tensors: list[Tensor]

    def inputs(self) -> list[Tensor]:
        return self.tensors


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = field(default=None)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    return next((each for each in inference_request.inputs() if each.name() == name), None)
