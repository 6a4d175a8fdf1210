"""Actions done by hand in the plainest way, to compare everything else with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from search.core.actions import Action
from search.core.subnet import SubNet
from search.model.family import Family

STREAMS = ("encoder_hidden_states", "hidden_states")
"""What blocks of two streams work on, in the order in which those of FLUX, SD3 and AuraFlow return it."""


def bases(
    module: nn.Module, family: Family, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]
) -> list[Tensor]:
    """What a block works on, per output, through its shortcut if it has one; of a branch nothing."""
    if family.is_branch(module):
        return [0 * output for output in outputs]
    if len(outputs) == len(STREAMS):
        names = type(module).forward.__code__.co_varnames[1:]
        given = dict(zip(names, args, strict=False)) | kwargs
        streams = [given[name] for name in STREAMS]
        # CogView returns the picture's first.
        alike = all(a.shape == b.shape for a, b in zip(streams, outputs, strict=True))
        return streams if alike else streams[::-1]
    entered: Tensor = (*args, *kwargs.values())[0]
    shortcut = getattr(module, "conv_shortcut", None)
    return [entered if shortcut is None else shortcut(entered)]


@contextmanager
def gated_by_hand(
    networks: nn.Module | dict[str, nn.Module], subnet: SubNet, family: Family
) -> Iterator[None]:
    """Compute every block at every step and replace what a gated one returns. No liveness."""
    by_name = {"": networks} if isinstance(networks, nn.Module) else networks
    streams, plan = streams_of(subnet), plan_of(subnet)
    leads = dict(reversed(plan))
    step, stream, calls = -1, "", 0
    kept: dict[str, list[Tensor]] = {}
    ran: dict[str, list[list[Tensor]]] = {}
    residual: dict[str, list[Tensor]] = {}
    uses: Counter[str] = Counter()

    def count(*_: Any) -> None:
        nonlocal calls, step, stream
        step, stream = plan[calls % len(plan)]
        calls += 1
        uses.clear()

    def emitted(block: int, name: str, fresh: list[Tensor], below: list[Tensor]) -> list[Tensor]:
        action = subnet.actions[step][block]
        if action is Action.RUN:
            ran.setdefault(name, []).append(fresh)
            residual[name] = [a - b for a, b in zip(fresh, below, strict=False)]
            return fresh
        if action is Action.REUSE:
            return kept[name]
        if action is Action.SKIP:
            return below
        if action is Action.FORECAST:
            [weights] = [w for s, b, w in subnet.coefficients if (s, b) == (step, block)]
            *_, previous, last = ran[name]
            return [weights[0] * a + weights[1] * b for a, b in zip(last, previous, strict=True)]
        return [a + b for a, b in zip(below, residual[name], strict=True)]

    def gate(block: int, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if stream != taken_apart(name, streams)[0]:
                return None
            fresh = [part for part in flat(output) if isinstance(part, torch.Tensor)]
            is_based = block in subnet.topology.based
            below = bases(module, family, args, kwargs, fresh) if is_based else []
            if is_based and name in streams and name != leads[step]:
                below = kept[f"{leads[step]}, use 1"]  # what the first call of the step predicted
            # CogView 4 has one feed-forward for text and picture: each use has a past of its own.
            uses[name] += 1
            use = f"{name}, use {uses[name]}"
            kept[use] = emitted(block, use, fresh, below)
            return filled(output, iter(kept[use]))

        return hook

    groups = subnet.topology.groups
    called = {} if groups is None else dict(groups.networks)
    first = next(iter(by_name))
    used = {called.get(each, first) for each in streams}
    handles = [by_name[name].register_forward_pre_hook(count) for name in used]
    for block, name in enumerate(subnet.topology.blocks):
        own, inner = taken_apart(name, streams)
        module = by_name[called.get(own, first)].get_submodule(inner)
        handles.append(module.register_forward_hook(gate(block, name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def streams_of(subnet: SubNet) -> list[str]:
    """The calls of the denoiser within a step, in the order in which the pipeline makes them."""
    if subnet.topology.groups is not None:
        return [name for name, _ in subnet.topology.groups.networks]
    return list(dict.fromkeys(n.partition("/")[0] for n in subnet.topology.blocks if "/" in n)) or [
        ""
    ]


def plan_of(subnet: SubNet) -> list[tuple[int, str]]:
    """The step and the stream of each call."""
    groups = subnet.topology.groups
    return [
        (step, stream)
        for step in range(subnet.steps)
        for stream in (
            streams_of(subnet) if groups is None else groups.calls[groups.of_steps[step]]
        )
    ]


def taken_apart(block: str, streams: list[str]) -> tuple[str, str]:
    """The stream of a block and its module."""
    if streams == [""]:
        return "", block
    [own] = [each for each in streams if block == each or block.startswith(f"{each}/")]
    return own, block.removeprefix(own).removeprefix("/")


def flat(output: Any) -> list[Any]:
    """What a block returns, its tuples (a down block returns one in another) taken apart."""
    if isinstance(output, BaseOutput):
        output = output.to_tuple()
    if not isinstance(output, tuple):
        return [output]
    return [leaf for part in output for leaf in flat(part)]


def filled(output: Any, tensors: Iterator[Tensor]) -> Any:
    """The same with other tensors."""
    if isinstance(output, BaseOutput):
        return type(output)(*(filled(part, tensors) for part in output.to_tuple()))
    if isinstance(output, tuple):
        return tuple(filled(part, tensors) for part in output)
    return next(tensors) if isinstance(output, torch.Tensor) else output
