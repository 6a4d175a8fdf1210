"""Bytes of a denoiser's weights, in floating point and quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.quantise.layers import layers_of

if TYPE_CHECKING:
    from torch import Tensor

    from search.core.quantisation import Quantisation, Scheme
    from search.model.pipeline import Pipeline

SCALE = 4
"""Bytes of one scale."""


def weights_bytes(pipeline: Pipeline, plan: Quantisation | None) -> int:
    """Of all weights of the denoiser; those of the plan's layers in its scheme, with their scales.

    A bundle leaves out what its SubNet never calls, so its file may be smaller.
    """
    layers = layers_of(pipeline)
    names = () if plan is None else tuple(layers) if plan.takes_all else tuple(plan.layers)
    quantised = {id(layers[name].weight) for name in names}
    weights = {id(w): w for network in pipeline.networks.values() for w in network.parameters()}
    return sum(
        stored_bytes(weight, plan.scheme)
        if plan is not None and key in quantised
        else weight.numel() * weight.element_size()
        for key, weight in weights.items()
    )


def stored_bytes(weight: Tensor, scheme: Scheme) -> int:
    """Of the weights `[out, ...]` of one layer and their scales."""
    count, scales = weight.numel(), weight.shape[0]
    if scheme.block and weight.ndim == 2 and weight.shape[1] % scheme.block == 0:
        scales = count // scheme.block
    return -(-count * scheme.bits // 8) + SCALE * scales
