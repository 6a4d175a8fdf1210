"""Attributes that are replaced for a while, and what must not remember them."""

from __future__ import annotations

import subprocess
import sys

REMEMBERED = """
import torch
from search.model.replaced import replaced
with replaced(torch, "tensor", lambda *_, **__: None):
    with torch.device("meta"):
        torch.ones(())
with torch.device("meta"):
    print(torch.tensor([]).device)
"""


def test_a_device_context_does_not_remember_what_was_replaced() -> None:
    command = [sys.executable, "-c", REMEMBERED]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "meta"
