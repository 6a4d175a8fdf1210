"""Which layers there are, and what removing them leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.core.blocks import skipped
from search.core.errors import SearchError
from search.core.subnet import Granularity
from search.core.table import keep_of
from search.core.topology import TargetKind
from search.laptop.layers import Layers, constant, layers_of, params_of
from search.methods.options import Options
from search.methods.whole import full
from search.model.opening import open_pipeline
from tests.toys import hourglass, subnet

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def layers(pipelines: Callable[[str], Path]) -> Layers:
    pipeline = open_pipeline(pipelines("three-levels"), weights=False)
    return layers_of(full(pipeline, Options(steps=2, granularity=Granularity.LAYER)))


def test_a_layer_is_followed_by_what_lies_in_it(layers: Layers) -> None:
    outer, inner = layers.number["down_blocks.1.attentions.0"], layers.number[BLOCK]
    assert layers.names[outer : layers.ends[outer]] == (
        "down_blocks.1.attentions.0",
        BLOCK,
        *(f"{BLOCK}.{unit}" for unit in ("attn1", "attn2", "ff")),
    )
    assert layers.ends[inner] == layers.ends[outer]


def test_a_share_is_what_the_module_holds_without_its_shortcut(
    layers: Layers, pipelines: Callable[[str], Path]
) -> None:
    denoiser = open_pipeline(pipelines("three-levels"), weights=False).denoiser
    total = sum(weight.numel() for weight in denoiser.parameters())
    shares = layers.shares(params_of)
    # Without the attention nobody needs the normalisation of its input either.
    for name, before in (
        (BLOCK, ()),
        (f"{BLOCK}.attn2", ("norm2",)),
        ("up_blocks.0.resnets.0", ()),
    ):
        module = denoiser.get_submodule(name).named_parameters()
        own = sum(w.numel() for key, w in module if not key.startswith("conv_shortcut"))
        for norm in before:
            own += sum(w.numel() for w in denoiser.get_submodule(f"{BLOCK}.{norm}").parameters())
        assert shares[layers.number[name]] == pytest.approx(own / total)


def test_layers_in_each_other_are_not_apart(layers: Layers) -> None:
    inner, outer = layers.number[f"{BLOCK}.ff"], layers.number[BLOCK]
    other = layers.number["mid_block.resnets.0"]
    assert layers.are_apart([inner, other])
    assert not layers.are_apart([inner, outer])


def test_what_a_subnet_skips_is_read_back(layers: Layers) -> None:
    names = {BLOCK, "mid_block.resnets.1"}
    assert set(skipped(layers.without([layers.number[name] for name in names]))) == names


def test_one_step_says_what_all_steps_cost(layers: Layers) -> None:
    subnet = layers.without([layers.number[BLOCK]])
    assert constant(keep_of)(subnet) == pytest.approx(keep_of(subnet))


def test_blocks_without_a_base_are_no_layers() -> None:
    whole = subnet(hourglass(), "RRR")
    assert layers_of(whole).names == ("up",)


def test_a_denoiser_without_layers_is_refused() -> None:
    whole = subnet(hourglass(), "RRR")
    topology = whole.topology
    computations = {t: c for t, c in topology.computations.items() if t.kind is not TargetKind.BASE}
    bare = replace(
        topology,
        bases={},
        computations=computations,
        segments=tuple(
            replace(s, targets=s.targets & computations.keys()) for s in topology.segments
        ),
    )
    with pytest.raises(SearchError, match="no block of this denoiser can be left out"):
        layers_of(replace(whole, topology=bare))
