"""What a trace says about real architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search.core.liveness import unroll
from search.core.subnet import Granularity
from search.core.topology import PREDICTION, Base, Topology, base_of, port_of
from search.methods.options import Options
from search.methods.whole import full
from search.model.family import Request, family_of
from search.model.opening import open_pipeline
from search.model.pipeline import Pipeline
from search.model.trace import Trace, trace
from tests.pipelines import SD15_STAGES, stable_diffusion_15

GIGA = 1e9
# `SD15_STAGES` without the products of queries with keys and of attention weights with values.
SD15_STAGES_WITHOUT_ATTENTION = {
    "down_blocks.0": 32.94,
    "down_blocks.1": 31.32,
    "down_blocks.2": 31.46,
    "down_blocks.3": 3.78,
    "mid_block": 6.03,
    "up_blocks.0": 12.90,
    "up_blocks.1": 75.14,
    "up_blocks.2": 79.12,
    "up_blocks.3": 66.04,
}


@pytest.fixture(scope="module")
def sd15() -> Callable[[Granularity], Trace]:
    pipe = stable_diffusion_15()
    pipe.set_progress_bar_config(disable=True)
    family = family_of("StableDiffusionPipeline")
    pipeline = Pipeline(Path("sd15"), pipe, family, weights=None)  # type: ignore[arg-type]
    return lambda granularity: trace(pipeline, granularity, Request(("",), 50, 7.5))


def own_macs(topology: Topology, block: str) -> int:
    return sum(s.macs for s in topology.segments if block in s.units)


def own_attention(topology: Topology, block: str) -> int:
    return sum(s.attention or 0 for s in topology.segments if block in s.units)


def test_sd15_has_nine_stages_and_their_macs(sd15: Callable[[Granularity], Trace]) -> None:
    topology = sd15(Granularity.STAGE).topology
    assert list(topology.blocks) == list(SD15_STAGES)
    for name, expected in SD15_STAGES.items():
        assert own_macs(topology, name) / GIGA == pytest.approx(expected, rel=0.002), name
        rest = own_macs(topology, name) - own_attention(topology, name)
        expected = SD15_STAGES_WITHOUT_ATTENTION[name]
        assert rest / GIGA == pytest.approx(expected, rel=0.002), name
    assert topology.macs / GIGA == pytest.approx(401.64, rel=0.001)
    products = sum(segment.attention or 0 for segment in topology.segments)
    assert (topology.macs - products) / GIGA == pytest.approx(338.83, rel=0.001)
    assert topology.params == 859_520_964


def test_sd15_reads_are_those_of_a_u_net(sd15: Callable[[Granularity], Trace]) -> None:
    topology = sd15(Granularity.STAGE).topology

    def read_by(block: str) -> set[str]:
        ports = {
            read
            for port in topology.ports_of[topology.blocks.index(block)]
            for read in topology.reads(port_of(port))
        }
        return {topology.blocks[topology.ports[p].block] for p in ports} - {block}

    assert read_by("up_blocks.0") == {"mid_block", "down_blocks.3", "down_blocks.2"}
    assert read_by("up_blocks.3") == {"up_blocks.2", "down_blocks.0"}
    assert read_by("mid_block") == {"down_blocks.3"}
    assert not topology.varies(PREDICTION), "conv_out sees neither latents nor timestep"


@pytest.mark.parametrize(
    ("granularity", "blocks"),
    [(Granularity.STAGE, 9), (Granularity.BRANCH, 27), (Granularity.LAYER, 22 + 16 * 5 + 6)],
)
def test_sd15_has_as_many_blocks_as_the_architecture(
    sd15: Callable[[Granularity], Trace], granularity: Granularity, blocks: int
) -> None:
    assert len(sd15(granularity).topology.blocks) == blocks


@pytest.mark.parametrize("granularity", list(Granularity))
def test_segments_are_the_whole_denoiser_at_every_granularity(
    pipelines: Callable[[str], Path], granularity: Granularity
) -> None:
    for name in ("shapes-sd", "shapes-dit", "three-levels", "two-levels", "learned-variance"):
        opened = open_pipeline(pipelines(name))
        subnet = full(opened, Options(steps=4, granularity=granularity))
        params = sum(p.numel() for p in opened.denoiser.parameters())
        assert subnet.topology.params == params
        unrolled = unroll(subnet)
        assert unrolled.macs == (subnet.topology.macs,) * subnet.steps


def test_macs_are_those_of_torchs_own_counter(pipelines: Callable[[str], Path]) -> None:
    """The counter run on the real module; it does not know the CPU's attention, so without that."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    opened = open_pipeline(pipelines("shapes-sd"))
    text = torch.zeros(1, 16, 64)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        opened.denoiser(torch.zeros(1, 4, 16, 16), torch.tensor(3), text)
    traced = full(opened, Options(steps=2)).topology.macs
    assert traced == pytest.approx(counter.get_total_flops() / 2, rel=1e-6)


def test_without_guidance_a_call_sees_each_sample_once(pipelines: Callable[[str], Path]) -> None:
    opened = open_pipeline(pipelines("shapes-sd"), weights=False)
    alone = full(opened, Options(steps=2, guidance=1.0))
    guided = full(opened, Options(steps=2))
    assert {p.shape[0] for p in alone.topology.ports} == {1}
    assert {p.shape[0] for p in guided.topology.ports} == {2}
    assert alone.topology.macs == guided.topology.macs, "MACs are per sample"
    assert not alone.binding.guided


@pytest.mark.parametrize(
    ("granularity", "refused"),
    [
        (Granularity.STAGE, {name for name in SD15_STAGES if name != "mid_block"}),
        (
            Granularity.BRANCH,
            {f"down_blocks.{i}.downsamplers.0" for i in range(3)}
            | {f"up_blocks.{i}.upsamplers.0" for i in range(3)},
        ),
    ],
)
def test_blocks_with_one_tensor_in_and_out_of_one_shape_allow_delta(
    sd15: Callable[[Granularity], Trace], granularity: Granularity, refused: set[str]
) -> None:
    topology = sd15(granularity).topology
    allowed = {topology.blocks[block] for block in topology.based}
    assert set(topology.blocks) - allowed == refused


def test_a_resnet_with_a_shortcut_convolution_allows_delta_through_it(
    sd15: Callable[[Granularity], Trace],
) -> None:
    topology = sd15(Granularity.LAYER).topology
    block = topology.blocks.index("up_blocks.3.resnets.0")
    [port] = topology.ports_of[block]
    assert {topology.blocks[topology.ports[p].block] for p in topology.reads(base_of(port))} == {
        "up_blocks.2.upsamplers.0",
        "down_blocks.0.attentions.1",
    }, "the concatenation is fresh"
    # 64 x 64 pixels, 1x1 from 640 + 320 channels to 320.
    shortcut = 64 * 64 * 960 * 320
    assert sum(s.macs for s in topology.needed([base_of(port)])) == shortcut
    in_both = (s for s in topology.needed([base_of(port)]) if port_of(port) in s.targets)
    assert sum(s.macs for s in in_both) == shortcut, "running the block computes it anyway"
    [plain] = topology.ports_of[topology.blocks.index("down_blocks.0.resnets.1")]
    assert topology.needed([base_of(plain)]) == (), "its base is another's output"
    [before] = topology.ports_of[topology.blocks.index("down_blocks.0.attentions.0")]
    assert topology.bases[plain] == Base(0, before)
    assert topology.bases[port] == Base(0)
