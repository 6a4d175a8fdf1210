"""Attention over tensors that are not 4-D, on ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch.nn.functional import scaled_dot_product_attention as attention

from exporter.graph import convert


class Attentions(torch.nn.Module):
    """Of one head, with and without a mask, and of no batch."""

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            attention(x, x, x) + 1,
            attention(x, x, x, attn_mask=seen),
            attention(x[0], x[0], x[0]),
        )


def test_attention_without_heads_is_that_of_one_head() -> None:
    torch.manual_seed(0)
    x, seen = torch.randn(2, 5, 8), torch.rand(2, 5, 5) > 0.3
    seen[..., 0] = True
    model = convert(torch.export.export(Attentions(), (x, seen), strict=False))
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name or "" for value in model.graph.inputs]
    found = session.run(None, dict(zip(names, (x.numpy(), seen.numpy()), strict=True)))
    for made, expected in zip(found, Attentions()(x, seen), strict=True):
        np.testing.assert_allclose(made, expected.numpy(), atol=1e-6)
