"""What is kept of a run of the full sampler."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.parity import reference


def test_a_full_run_may_have_more_calls_than_a_subnet_of_fewer_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = torch.nn.Identity()
    monkeypatch.setattr(reference, "called_networks", lambda *_: [(network, "")])
    opened: Any = SimpleNamespace(networks={})
    subnet: Any = SimpleNamespace(steps=3, topology=SimpleNamespace(calls_of=lambda _: (0,)))
    seen: dict[int, list[Any]] = {}
    with reference._watched(opened, subnet, (0, 2), seen):
        for number in range(5):
            network((torch.tensor(float(number)),))
    assert {step: [float(each.output) for each in calls] for step, calls in seen.items()} == {
        0: [0.0], 2: [2.0],
    }  # fmt: skip
