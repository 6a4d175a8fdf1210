"""The float twin of a quantised bundle: the same graphs without rounding, with the pipeline's own weights.

Rounding to a grid hides small faults of a graph. Its twin has none, so it is held to the usual floors. Powers of
two between inputs and weights stay in it, and change nothing if they are right.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from engines.errors import EngineError
from engines.parity.quantisation import before_rounding, stored_name, stored_weights
from engines.temporary import process_name, remove_stale
from exporter.bundle import WEIGHTS
from exporter.weights import keep, refer, write_weights
from search.core.files import sha256
from search.core.names import TRANSPOSED, layer_of
from search.core.quantisation import Layer
from search.quantise.layers import layers_of
from search.quantise.smoothing import multiplied

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from engines.parity.reference import Reference
    from exporter.bundle import Bundle
    from search.core.quantisation import Quantisation

PREFIX = "stepcarve-float-"
"""Begins the names of the folders that twins are in."""


@contextmanager
def float_twin(reference: Reference) -> Iterator[Bundle]:
    """The twin of the quantised bundle of `reference`; it lies in a temporary folder while this is open.

    Raises:
        EngineError: a graph stores weights that the pipeline does not have.
    """
    bundle = reference.bundle
    plan = bundle.plan
    assert plan is not None
    modules: dict[str, Any] = layers_of(reference.opened)
    weights = {name: module.weight.detach() for name, module in modules.items()}
    remove_stale(Path(tempfile.gettempdir()), PREFIX)
    with tempfile.TemporaryDirectory(prefix=f"{process_name(PREFIX)}.") as name:
        folder = Path(name)
        models = {file: ir.load(bundle.file(file)) for file in bundle.models}
        for file in bundle.graphs:
            _unround(models[file].graph, plan, weights)
        _write(folder, models)
        for file in bundle.needed - {WEIGHTS, *bundle.models}:
            shutil.copy(bundle.file(file), folder / file)
        files = {path.name: sha256(path) for path in folder.iterdir()}
        yield replace(bundle, path=folder, files=files, quantisation=None)


def _write(folder: Path, models: Mapping[str, ir.Model]) -> None:
    for model in models.values():
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                keep(value)
    index = write_weights(folder, models.values())
    for file, model in models.items():
        refer(folder, model, index)
        ir.save(model, folder / file)


def _unround(graph: ir.Graph, plan: Quantisation, weights: Mapping[str, Tensor]) -> None:
    """Let the nodes of `graph` multiply the weights themselves with inputs that are not rounded."""
    for node in list(graph):
        stored = stored_weights(node)
        if stored is None:
            continue
        node.replace_input_with(1, _whole(graph, stored, plan, weights))
        assert node.inputs[0] is not None
        node.replace_input_with(0, before_rounding(node.inputs[0]))
    for node in reversed(list(graph)):
        if node.op_type in ("DequantizeLinear", "QuantizeLinear") and not node.outputs[0].uses():
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        graph.initializers.pop(name)


def _whole(
    graph: ir.Graph, stored: ir.Node, plan: Quantisation, weights: Mapping[str, Tensor]
) -> ir.Value:
    """The weights in place of those that a DequantizeLinear gives, as an initializer."""
    name, scale = stored_name(stored, plan), stored.inputs[1]
    if name in graph.initializers:
        return graph.initializers[name]
    if layer_of(name) not in weights:
        msg = f"the graphs store weights {name!r}, which the pipeline has not; export again"
        raise EngineError(msg)
    tensor = multiplied(weights[layer_of(name)], plan.layers.get(layer_of(name), Layer()))
    assert scale is not None
    assert scale.dtype is not None
    array = (tensor.T if name.endswith(TRANSPOSED) else tensor).float().numpy(force=True)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(scale.dtype),
        const_value=ir.tensor(array.astype(scale.dtype.numpy()), name=name),
    )
    keep(value)
    graph.initializers[name] = value
    return value
