"""Units that are left out: neither their nodes nor the additions of their zeros are in a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from exporter.carve import carve
from exporter.graph import DOMAIN
from exporter.trace import Master
from exporter.traced import trace_denoiser
from search.core.program import plan_program
from search.core.subnet import Granularity
from search.laptop.layers import Layers, layers_of, once
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline

Find = Callable[[str], tuple[Master, Layers]]
UNITS = {
    "three-levels": "down_blocks.1.attentions.0.transformer_blocks.0",
    "shapes-dit": "transformer_blocks.4",
}


@pytest.fixture(scope="module")
def find(pipelines: Callable[[str], Path]) -> Find:
    made: dict[str, tuple[Master, Layers]] = {}

    def master(name: str) -> tuple[Master, Layers]:
        if name not in made:
            pipeline = open_pipeline(pipelines(name), weights=False)
            whole = full(pipeline, Options(steps=1, granularity=Granularity.LAYER))
            layers = layers_of(whole)
            made[name] = trace_denoiser(pipeline, whole, frozenset(layers.blocks), 1), layers
        return made[name]

    return master


def graph_without(master: Master, layers: Layers, *names: str) -> ir.Graph:
    subnet = once(layers.without([layers.number[name] for name in names]))
    [signature] = plan_program(subnet, 1).signatures
    return carve(master, signature, "step").graph


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("unit", ["attn1", "ff"])
def test_a_unit_left_out_leaves_nothing(find: Find, name: str, unit: str) -> None:
    master, layers = find(name)
    whole = graph_without(master, layers)
    graph = graph_without(master, layers, f"{UNITS[name]}.{unit}")
    inside = f"denoiser.{UNITS[name]}.{unit}."
    assert any(each.startswith(inside) for each in whole.initializers)
    assert not any(each.startswith(inside) for each in graph.initializers)
    assert not {"ConstantOfShape", "Nothing"} & {node.op_type for node in graph}
    assert not any(node.domain == DOMAIN for node in graph)
    adds = [sum(node.op_type == "Add" for node in each) for each in (whole, graph)]
    assert adds[1] < adds[0]


def test_all_units_of_a_block_leave_its_input(find: Find) -> None:
    master, layers = find("three-levels")
    block = UNITS["three-levels"]
    units = graph_without(master, layers, *(f"{block}.{unit}" for unit in ("attn1", "attn2", "ff")))
    assert len(list(units)) == len(list(graph_without(master, layers, block)))
