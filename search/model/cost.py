"""Multiply-accumulates of every operation of a traced graph, attention products included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node


def count_macs(module: GraphModule) -> dict[Node, int]:
    """MACs of each node with torch's FlopCounterMode, run on fake tensors of the recorded shapes.

    The counter knows the attention kernels of GPUs; the CPU's is added here.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={cpu_attention: attention})
    with FakeTensorMode(), torch.no_grad(), counter:
        inputs = [
            torch.empty(node.meta["val"].shape, dtype=node.meta["val"].dtype)
            for node in module.graph.nodes
            if node.op == "placeholder"
        ]
        interpreter = _Counting(module, counter)
        interpreter.run(*inputs)
    return interpreter.macs


def attention_products(program: ExportedProgram) -> frozenset[Node]:
    """The operations that multiply no weights: two or more operands are computed from the inputs.

    Those are the products of attention (queries with keys, attention weights with values), whether the
    trace has them as one operation or as two. Only among operations with MACs does this mean anything.
    """
    inputs = set(program.graph_signature.user_inputs)
    computed: set[Node] = set()
    products: set[Node] = set()
    for node in program.graph.nodes:
        operands = sum(each in computed for each in node.all_input_nodes)
        if node.name in inputs or operands:
            computed.add(node)
        if operands > 1:
            products.add(node)
    return frozenset(products)


class _Counting(torch.fx.Interpreter):
    def __init__(self, module: GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self.counter, self.macs = counter, dict[Any, int]()

    def run_node(self, n: Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        self.macs[n] = (self.counter.get_total_flops() - before) // 2
        return result
