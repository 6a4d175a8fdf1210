"""REUSE, DELTA and SKIP done by hand in the plainest way, to compare everything else with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from search.core.subnet import Action, SubNet


def base(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a block works on, through its shortcut convolution if it has one; of a branch nothing."""
    entered: Tensor = (*args, *kwargs.values())[0]
    if type(module).__name__.endswith(("Attention", "FeedForward")):
        return 0 * entered
    shortcut = getattr(module, "conv_shortcut", None)
    return entered if shortcut is None else shortcut(entered)


@contextmanager
def gated_by_hand(denoiser: nn.Module, subnet: SubNet) -> Iterator[None]:
    """Compute every block at every step and replace what a gated one returns. No liveness."""
    step = -1
    kept: dict[str, Any] = {}
    residual: dict[str, Tensor] = {}

    def count(*_: Any) -> None:
        nonlocal step
        step += 1

    def gate(block: int, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            action = subnet.actions[step][block]
            parts = output if isinstance(output, tuple) else (output,)
            fresh = next(part for part in parts if part is not None)
            if action is Action.RUN:
                kept[name] = output
                if block in subnet.topology.deltas:
                    residual[name] = fresh - base(module, args, kwargs)
            elif action is not Action.REUSE:
                value = base(module, args, kwargs)
                if action is Action.DELTA:
                    value = value + residual[name]
                whole = tuple(None if part is None else value for part in parts)
                kept[name] = whole if isinstance(output, tuple) else value
            return kept[name]

        return hook

    handles = [denoiser.register_forward_pre_hook(count)]
    for block, name in enumerate(subnet.topology.blocks):
        module = denoiser.get_submodule(name)
        handles.append(module.register_forward_hook(gate(block, name), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
