"""What leaving out a block of a call does to the final latents, to first order."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from search.fitting.effort import PROBES
from search.fitting.gated_calls import GatedPredictor
from search.fitting.rows import Calls, run_chain
from search.supernet.gates import RUN

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from search.fitting.placed import Placed
    from search.fitting.trajectories import Trajectories
    from search.supernet.supernet import SuperNet


def measure_effects(
    runs: Trajectories,
    net: SuperNet,
    placed: Placed,
    *,
    seed: int,
    report: Callable[[float], None] = lambda _share: None,
) -> NDArray[np.float64]:
    """Products of random directions with the effect of each choice in place of RUN, `[M, T, N, A]`.

    M is the number of pictures times `PROBES`; T, N and A are calls, blocks and choices.

    An effect is a vector as long as all final latents of all pictures. A backward pass gives the products
    of all of them with one direction, and the mean square of such products is the square of the vector.
    They are additive, so the square of any sum of effects follows, without making a single choice.

    Args:
        runs: of the full sampler.
        net: open, over the calls of `placed`.
        placed: whole calls.
        seed: of the random directions.
        report: called with the completed fraction.
    """
    generator = torch.Generator().manual_seed(seed)
    errors: list[float] = []
    products: list[NDArray[np.float64]] = []
    for number in range(len(runs.noise)):
        final, gates = _gated(runs.alone(number), net, placed)
        target = runs.final[number : number + 1]
        errors.append(float((final.detach() - target).norm() / target.norm()))
        products.append(_products(final / target.norm(), gates, generator))
        report((number + 1) / len(runs.noise))
    scale = np.sqrt(_weights(np.array(errors)) / PROBES)
    found = (scale[:, None, None, None, None] * np.stack(products)).reshape(-1, *net.shape)
    effects: NDArray[np.float64] = found - found[..., RUN, None]
    return effects


def _weights(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the squares of the pictures' errors, so that their sum changes as `placed.overall` does."""
    least = (
        np.finfo(errors.dtype).tiny ** 0.5
    )  # where there is no error, all pictures weigh the same
    weights: NDArray[np.float64] = np.maximum(errors + np.median(errors), least) ** -1.5
    weights /= weights.sum()
    return weights


def _gated(run: Trajectories, net: SuperNet, placed: Placed) -> tuple[Tensor, Tensor]:
    """The final latents of one picture, and the gates that they are differentiable in."""
    gates = net.full_gates().to(run.noise.device).requires_grad_()
    gated = run.by(GatedPredictor(run.predictor, net, gates))
    return run_chain(gated, Calls.at_numbers(placed.positions, run), placed.rows), gates


def _products(final: Tensor, gates: Tensor, generator: torch.Generator) -> NDArray[np.float64]:
    """`[PROBES, T, N, A]`."""
    found = []
    for probe in range(PROBES):
        direction = torch.randn(final.shape, generator=generator).to(final)
        gates.grad = None
        final.backward(direction, retain_graph=probe + 1 < PROBES)  # type: ignore[no-untyped-call]
        found.append(cast("Tensor", gates.grad).double().numpy(force=True))
    return np.stack(found)
