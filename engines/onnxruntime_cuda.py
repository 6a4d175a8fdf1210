"""ONNX Runtime on a GPU: its sessions read and write the buffers of `engines.cuda`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime

from engines.base import DEFAULTS
from engines.cuda import TorchBuffers, checked_tensor, refusal
from engines.onnxruntime import OnnxRuntime, OnnxRuntimeSession, probe
from search.core.precision import is_own, of_numpy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from engines.base import EngineOptions, Form
    from engines.buffers import Buffer


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on a GPU, without CPU fallback."""

    provider = "CUDAExecutionProvider"

    def __init__(self, device: str, options: EngineOptions = DEFAULTS) -> None:
        """Require a working provider and CUDA in torch."""
        super().__init__(device, options)
        probe(self.provider)
        buffers = TorchBuffers(device, cuda_graph=options.cuda_graph)
        self.buffers = buffers
        # TF32 keeps 10 of the 23 bits of float32's fraction: verify would call that no parity.
        self.settings = {"user_compute_stream": str(buffers.handle), "use_tf32": "0"}

    def bound(self, session: onnxruntime.InferenceSession, graph: Path) -> CudaSession:
        """See `OnnxRuntime`."""
        return CudaSession(session, graph)


class CudaSession(OnnxRuntimeSession):
    """One graph in ONNX Runtime on a GPU."""

    def bind(
        self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> Callable[[], None]:
        """See `engines.base.Session`; a run is enqueued on the buffers' stream and not waited for."""
        binding, session = self._session.io_binding(), self._session
        for name, form in self.inputs.items():
            binding.bind_input(name, *self._place(name, inputs, form))
        for name, form in self.outputs.items():
            binding.bind_output(name, *self._place(name, outputs, form))
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def run() -> None:
            try:
                session.run_with_iobinding(binding, options)
            except Exception as error:  # the runtime has no error class that covers them all
                message = " ".join(str(error).split())[:300]
                raise refusal(f"{self._path.name} did not run: {message}") from error

        return run

    def _place(
        self, name: str, buffers: Mapping[str, Buffer], form: Form
    ) -> tuple[str, int, object, tuple[int, ...], int]:
        """Device, its number, element type, shape and address, as an I/O binding takes them."""
        import onnx

        tensor = checked_tensor(self._path, name, buffers, form)
        kind = of_numpy(form[1])
        # Of numbers that numpy has no type for, ONNX's number is given.
        element = form[1] if is_own(form[1]) else getattr(onnx.TensorProto, kind.onnx)
        return "cuda", tensor.get_device(), element, form[0], int(tensor.data_ptr())
