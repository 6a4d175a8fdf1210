"""Which ONNX Runtime runs the graphs of a bundle."""

from __future__ import annotations

import re

from engines.errors import EngineError

OPSET = 23
"""Of ONNX, that the graphs of bundles are written in; it has attention as one operator."""
OLDEST = (1, 23)
"""The first ONNX Runtime that has this opset with attention."""


def require_onnxruntime(version: str) -> None:
    """Refuse an ONNX Runtime that is too old for bundles.

    Args:
        version: what is installed, such as `1.22.0`.

    Raises:
        EngineError: it is older than `OLDEST`.
    """
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if found < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        msg = (
            f"this is onnxruntime {version}, but the graphs of bundles are ONNX opset {OPSET}, which needs "
            f'onnxruntime {oldest} or newer; pip install "onnxruntime>={oldest}"'
        )
        raise EngineError(msg)
