"""From a torch.export program to an optimised ONNX graph whose weights stay on disk."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer, rewriter

from exporter.argmax import decompose_argmax
from exporter.attention import with_heads
from exporter.errors import ExportError
from exporter.rules import RULES
from exporter.weights import keep
from search.core.names import TRANSPOSED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch.export import ExportedProgram

DOMAIN = "stepcarve"
BOUNDARY = "Boundary"
"""An identity that no optimisation sees through: what is cut there is exactly the block's output."""
OPSET = 23
"""From 23 on, attention, group normalisation and GELU are single nodes."""
INLINE_BYTES = 1024
"""Constants up to this size (shapes, scales) stay in the graph, where shape inference needs them."""

_OPERATION = re.compile(r"OpOverload\(op='([\w.]+)'")
"""How torch names an operation that it cannot write."""
ROUNDS = 2
"""Of folding constants and applying `RULES`, each of which makes room for the other."""


def convert(program: ExportedProgram) -> ir.Model:
    """The program as an unoptimised ONNX model; weights are not read."""
    with_heads(program)
    _drop_assertions(program)
    _widen_indices(program)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program, dynamo=True, optimize=False, opset_version=OPSET, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(_inconvertible(error)) from error
    if converted is None:
        msg = "torch.onnx.export returned nothing"
        raise RuntimeError(msg)
    return converted.model


def _inconvertible(error: BaseException) -> str:
    """Why a program cannot be written as ONNX, with the innermost operation that is named."""
    inner: BaseException | None = error
    found = None
    while inner is not None:
        found = _OPERATION.search(str(inner)) or found
        inner = inner.__cause__
    what = f"the operation {found[1]!r}" if found else "an operation"
    return f"a graph has {what}, which cannot be written as ONNX; such pipelines are not supported"


def _drop_assertions(program: ExportedProgram) -> None:
    """Take out what is computed only to be checked in the trace; ONNX may not have these operations."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _widen_indices(program: ExportedProgram) -> None:
    """Convert int32 index tensors to int64, in place: ONNX does not index with int32."""
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.index.Tensor):
        for index in filter(None, node.args[1]):
            if index.meta["val"].dtype is not torch.int32:
                continue
            with graph.inserting_before(node):
                wide = graph.call_function(
                    torch.ops.aten._to_copy.default, (index,), {"dtype": torch.int64}
                )
            wide.meta["val"] = index.meta["val"].to(torch.int64)
            node.replace_input_with(index, wide)
    program.graph_module.recompile()


def optimise(model: ir.Model, parameters: Collection[str]) -> None:
    """Fold constants and fuse, in place; parameters are only read when they are written.

    What the graph had as an initializer, and large constants, will be kept in the weights file.

    Args:
        model: as converted.
        parameters: the initializers whose names say what they hold.
    """
    _drop_void_squeezes(model.graph)
    _cast_joined(model.graph)
    _widen_masks(model.graph)
    _choose_by_logic(model.graph)
    decompose_argmax(model.graph)
    _transpose_weights(model.graph)
    given = set(model.graph.initializers)
    _simplify(
        model,
        lambda node: False if any(v is not None and v.name in given for v in node.inputs) else None,
    )
    _drop_void_choices(model)
    passes.ClearMetadataAndDocStringPass()(model)
    for name, value in model.graph.initializers.items():
        if not _size_of(value):
            continue  # onnxruntime reads no empty tensor from a file
        if name.removesuffix(TRANSPOSED) in parameters:
            keep(value, name)
        elif _size_of(value) > INLINE_BYTES or (name in given and _is_floating(value)):
            keep(value)


def _is_floating(value: ir.Value) -> bool:
    """Whether an initializer's tensor is one of weights, not of indices."""
    return value.dtype is not None and value.dtype.is_floating_point()


def _size_of(value: ir.Value) -> int:
    """Bytes of an initializer's tensor."""
    return 0 if value.const_value is None else value.const_value.nbytes


def _simplify(model: ir.Model, should_fold: Callable[[ir.Node], bool | None]) -> None:
    """What `optimizer.optimize_ir` does, without the rule that looks at all pairs of nodes."""
    optimizer.inline(model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=should_fold)
        rewriter.rewrite(model, RULES)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def lazy_tensor(value: ir.Value, read: Callable[[], torch.Tensor]) -> ir.LazyTensor:
    """A tensor for the initializer `value` that is read when it is written, in the value's type."""
    if value.dtype is None or value.shape is None:
        msg = f"the initializer {value.name!r} has no type or shape"
        raise ValueError(msg)
    target = ir.tensor_adapters.to_torch_dtype(value.dtype)
    return ir.LazyTensor(
        lambda: ir.tensor_adapters.TorchTensor(read().to(target).contiguous()),
        dtype=value.dtype,
        shape=ir.Shape(value.shape),
        name=value.name,
    )


def _drop_void_squeezes(graph: ir.Graph) -> None:
    """Remove each Squeeze of a dimension that is not 1: torch does nothing there, ONNX refuses."""
    for node in list(graph):
        if node.op_type != "Squeeze" or node.inputs[0] is None:
            continue
        before, after = node.inputs[0], node.outputs[0]
        if before.shape is not None and before.shape == after.shape:
            ir.convenience.replace_all_uses_with(after, before, replace_graph_outputs=True)
            graph.remove(node, safe=True)


def _cast_joined(graph: ir.Graph) -> None:
    """Cast what a Concat joins to the type of the whole: torch promotes there, ONNX does not."""
    for node in list(graph):
        whole = node.outputs[0].dtype
        if node.op_type != "Concat" or whole is None:
            continue
        for index, part in enumerate(node.inputs):
            if part is None or part.dtype in (None, whole):
                continue
            cast = ir.node("Cast", [part], {"to": whole})
            cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(whole), part.shape
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])


def _drop_void_choices(model: ir.Model) -> None:
    """Remove each Where between a value and itself, which TensorRT cannot compile."""
    for node in list(model.graph):
        if node.op_type != "Where" or node.outputs[0].is_graph_output():
            continue
        chosen, after = node.inputs[1], node.outputs[0]
        if chosen is None or chosen is not node.inputs[2] or chosen.shape != after.shape:
            continue
        ir.convenience.replace_all_uses_with(after, chosen)
        model.graph.remove(node, safe=True)
    passes.RemoveUnusedNodesPass()(model)


def _choose_by_logic(graph: ir.Graph) -> None:
    """Write each Where between booleans as And and Or: ONNX Runtime has no such Where."""
    for node in list(graph):
        after = node.outputs[0]
        if node.op_type != "Where" or after.dtype != ir.DataType.BOOL:
            continue
        condition, chosen, other = node.inputs
        both = ir.node("And", [condition, chosen])
        neither = ir.node("Not", [condition])
        rest = ir.node("And", [neither.outputs[0], other])
        either = ir.node("Or", [both.outputs[0], rest.outputs[0]])
        either.outputs[0].type, either.outputs[0].shape = after.type, after.shape
        graph.insert_before(node, [both, neither, rest, either])
        ir.convenience.replace_all_uses_with(after, either.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _widen_masks(graph: ir.Graph) -> None:
    """Give each attention mask a row per query: ONNX Runtime does not broadcast along that axis."""
    for node in list(graph):
        if node.op_type != "Attention" or len(node.inputs) < 4 or node.inputs[3] is None:
            continue
        mask, query = node.inputs[3], node.inputs[0]
        if mask.shape is None or query is None or query.shape is None:
            msg = f"the attention {node.name!r} has a mask or a query of unknown shape"
            raise ValueError(msg)
        if mask.shape[-2] == query.shape[2]:
            continue
        rows = np.array([*(1 for _ in mask.shape[:-2]), query.shape[2], 1], np.int64)
        shape = ir.node("Constant", [], {"value": ir.tensor(rows)})
        wide = ir.node("Expand", [mask, shape.outputs[0]])
        wide.outputs[0].type = mask.type
        graph.insert_before(node, [shape, wide])
        node.replace_input_with(3, wide.outputs[0])


def _transpose_weights(graph: ir.Graph) -> None:
    """Store the weights of linear layers the way MatMul reads them.

    torch keeps them as `[out, in]`; without this, every step graph would transpose them again when it
    is loaded, into memory of its own.
    """
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or not source.is_initializer() or source.const_value is None:
            continue
        name = f"{source.name}{TRANSPOSED}"
        if name not in graph.initializers:
            graph.initializers[name] = _transposed(source, node, name)
        result = node.outputs[0]
        ir.convenience.replace_all_uses_with(result, graph.initializers[name])
        graph.remove(node, safe=True)
    for name in [n for n, v in graph.initializers.items() if not v.uses()]:
        graph.initializers.pop(name)


def _transposed(source: ir.Value, node: ir.Node, name: str) -> ir.Value:
    tensor = source.const_value
    if tensor is None or source.dtype is None or source.shape is None:
        msg = f"the initializer {source.name!r} has no value"
        raise ValueError(msg)
    order = node.attributes["perm"].as_ints()
    shape = ir.Shape([source.shape[axis] for axis in order])
    lazy = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().transpose(order).copy(), name=name),
        dtype=source.dtype,
        shape=shape,
        name=name,
    )
    return ir.Value(name=name, shape=shape, type=ir.TensorType(source.dtype), const_value=lazy)


def forget_inner_types(graph: ir.Graph) -> None:
    """Drop the shapes of values inside, a third of a step graph's file.

    They follow from those of the boundaries, inputs and outputs.
    """
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None


def sort_initializers(graph: ir.Graph) -> None:
    """By name: extraction collects them in a set, and equal inputs should give equal files."""
    values = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says about packages that are not there and are not needed."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
