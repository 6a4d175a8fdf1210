"""How the SuperNet's peak memory grows with the number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from search.supernet.supernet import supernet
from tests.search.supernet.random_gates import case_of, opened


class Peak(TorchDispatchMode):
    """The largest sum of bytes of tensors that were alive together."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        now = sum(size for _, size in self.alive.values())
        if now > self.bytes:
            self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
            self.bytes = max(self.bytes, sum(size for _, size in self.alive.values()))
        return output


def growth(path: Path, *, every: int, reuse: bool) -> tuple[float, int]:
    """Bytes that one more step adds to the peak, and those of all that blocks emit in one step."""
    peaks = []
    for steps in (4, 10):
        pipeline, whole = opened(path, steps=steps)
        with supernet(pipeline, whole, every=every) as net:
            gates = net.full_gates()
            if reuse:
                gates[1:] = gates[1:].flip(-1)
            gates.requires_grad_()
            case = case_of(net)
            with Peak() as peak:
                net.run(gates, case).latents.square().mean().backward()
            peaks.append(peak.bytes)
    emitted = sum(4 * math.prod(port.shape) for port in whole.topology.ports)
    return (peaks[1] - peaks[0]) / 6, emitted


@pytest.fixture
def path(pipelines: Callable[[str], Path]) -> Path:
    return pipelines("three-levels")


def test_without_checkpointing_each_step_adds_its_activations(path: Path) -> None:
    added, emitted = growth(path, every=0, reuse=False)
    assert added > 3 * emitted


def test_with_it_each_step_adds_what_its_blocks_emit(path: Path) -> None:
    added, emitted = growth(path, every=1, reuse=False)
    assert added < 1.2 * emitted


def test_a_reused_tensor_is_not_kept_twice(path: Path) -> None:
    added, emitted = growth(path, every=1, reuse=True)
    assert added < 0.2 * emitted


def test_keeping_every_third_steps_caches_adds_a_third(path: Path) -> None:
    added, emitted = growth(path, every=3, reuse=False)
    assert added < 0.5 * emitted
