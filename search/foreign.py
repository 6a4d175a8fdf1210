"""What other projects publish about who runs when, as SubNets."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from search.errors import SearchError
from search.gate_file import Gate
from search.schedules import with_actions
from search.subnet import Action, Granularity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from search.model.pipeline import Pipeline
    from search.options import Options
    from search.subnet import SubNet

FORMATS = ("dip-go-gates",)

_STAGE = re.compile(r"(down|up)_blocks\.(\d+)|(mid)_block")


def require_format(name: str) -> None:
    """Refuse a format that is not one of `FORMATS`."""
    if name not in FORMATS:
        msg = f"unknown format {name!r}; choose one of {', '.join(FORMATS)}"
        raise SearchError(msg)


def subnet_from_gates(
    pipeline: Pipeline, gates: Sequence[Mapping[Gate, bool]], options: Options
) -> SubNet:
    """The SubNet for `pipeline` that a DiP-GO gate file describes.

    Args:
        pipeline: with a U-Net.
        gates: per step, whether a gate keeps its block; see `search.gate_file`.
        options: steps, guidance and size.

    Raises:
        SearchError: the gates are for another sampler or another U-Net, or step 0 reuses a block.
    """
    from search.methods import full

    _require_steps(len(gates), pipeline, options.steps)
    stages = pipeline.family.blocks(pipeline.denoiser, Granularity.STAGE)
    gate_of = gates_of_stages(stages)
    for step, row in enumerate(gates):
        _require_gates(step, row, set(gate_of.values()))
    early = [str(gate) for gate, keeps in gates[0].items() if not keeps]
    if early:
        msg = (
            f"the gates {early} reuse their blocks at step 0, when there is nothing to reuse yet; "
            "the first step must keep every block"
        )
        raise SearchError(msg)
    whole = full(pipeline, dataclasses.replace(options, granularity=Granularity.STAGE))
    order = [gate_of[name] for name in whole.topology.blocks]
    return with_actions(
        whole,
        lambda step, block: Action.RUN if gates[step][order[block]] else Action.REUSE,
        method="dip-go-gates",
    )


def gates_of_stages(stages: Sequence[str]) -> dict[str, Gate]:
    """The gate of each stage of a U-Net; up blocks are counted from the last one."""
    ups = sum(name.startswith("up_") for name in stages)
    found = {}
    for name in stages:
        match = _STAGE.fullmatch(name)
        if match is None:
            msg = (
                f"DiP-GO's gate files are for U-Nets with down, middle and up blocks, but this "
                f"denoiser has {name!r}; give a pipeline with a U-Net"
            )
            raise SearchError(msg)
        kind, number = match[1] or match[3], int(match[2] or 0)
        found[name] = Gate(kind, ups - 1 - number if kind == "up" else number)
    return found


def _require_steps(steps: int, pipeline: Pipeline, inference_steps: int) -> None:
    calls = len(pipeline.sampler(inference_steps).inputs)
    if steps != calls:
        msg = (
            f"the gate file has {steps} steps, but {type(pipeline.pipe.scheduler).__name__} with "
            f"--steps {inference_steps} makes {calls} calls; choose --steps or --scheduler so that "
            "both are equal"
        )
        raise SearchError(msg)


def _require_gates(step: int, row: Mapping[Gate, bool], expected: set[Gate]) -> None:
    missing = [str(gate) for gate in sorted(expected - row.keys())]
    extra = [str(gate) for gate in sorted(row.keys() - expected)]
    if missing or extra:
        msg = (
            f"step {step} of the gate file lacks {missing or 'no gate'} and has {extra or 'no gate'} "
            "beyond those of this U-Net; give the pipeline that the gates were made for"
        )
        raise SearchError(msg)
