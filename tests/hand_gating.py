"""Reuse done by hand in the plainest way, to compare everything else with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from search.subnet import Action, SubNet


@contextmanager
def gated_by_hand(denoiser: nn.Module, subnet: SubNet) -> Iterator[None]:
    """Compute every block at every step and replace what a reused one returns. No liveness."""
    step = -1
    kept: dict[str, Any] = {}

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def gate(block: int, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            del module, args
            if subnet.actions[step][block] is Action.RUN:
                kept[name] = output
            return kept[name]

        return hook

    handles = [denoiser.register_forward_pre_hook(count)]
    for block, name in enumerate(subnet.topology.blocks):
        handles.append(denoiser.get_submodule(name).register_forward_hook(gate(block, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
