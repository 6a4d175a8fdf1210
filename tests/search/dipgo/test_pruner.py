"""The pruner network: its start, its gradients, what its cells know of each other."""

from __future__ import annotations

import math

import pytest
import torch

from search.dipgo.pruner import Pruner, straight_through
from search.dipgo.recipe import DipGoRecipe, PrunerEncoder

ALLOWED = torch.tensor([[True, True, True], [True, True, False]])


def pruner(encoder: PrunerEncoder = PrunerEncoder.ATTENTION, seed: int = 0) -> Pruner:
    return Pruner(
        (3, 2, 3), ALLOWED, DipGoRecipe(width=16, head=(8, 8), encoder=encoder), seed=seed
    )


def test_at_the_start_everything_runs_with_the_same_score() -> None:
    two = Pruner((3, 2, 2), ALLOWED[:, :2], DipGoRecipe(width=16, head=(8, 8)), seed=0)
    assert two()[..., 0].detach() == pytest.approx(torch.full((3, 2), math.e / (math.e + 1)))
    assert (straight_through(pruner()())[..., 0] == 1).all()


def test_a_forbidden_choice_has_no_score_and_no_gradient() -> None:
    network = pruner()
    scores = network()
    assert (scores[:, 1, 2] == 0).all()
    scores[..., 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("encoder", PrunerEncoder)
def test_every_cell_knows_of_every_query(encoder: PrunerEncoder) -> None:
    network = pruner(encoder)
    torch.nn.init.ones_(network.head.weights[-1])
    network.head.weights[-1].data[..., 1:] = 0
    for cell in range(6):
        (gradient,) = torch.autograd.grad(network().view(6, 3)[cell, 0], network.queries)
        assert (gradient.abs().sum(1) > 0).all()


def test_heads_are_computed_each_with_its_own_weights() -> None:
    network = pruner()
    torch.nn.init.normal_(network.head.weights[-1])
    encoded = torch.randn(6, 16)
    found = network.head(encoded)
    for cell in range(6):
        x = encoded[cell]
        for i, (weight, bias) in enumerate(
            zip(network.head.weights, network.head.biases, strict=True)
        ):
            x = (torch.relu(x) if i else x) @ weight[cell] + bias[cell]
        assert torch.allclose(found[cell], x, atol=1e-5)


def test_gates_are_exact_and_have_the_gradient_of_the_scores() -> None:
    scores = torch.tensor([[[0.1, 0.9]], [[0.2, 0.8]], [[0.6, 0.4]]], requires_grad=True)
    gates = straight_through(scores)
    assert gates.tolist() == [[[1, 0]], [[0, 1]], [[1, 0]]], "step 0 runs whatever its score"
    gates.backward(torch.tensor([[[5.0, 6.0]], [[1.0, 2.0]], [[3.0, 4.0]]]))
    assert scores.grad is not None
    assert scores.grad.tolist() == [[[0, 0]], [[1, 2]], [[3, 4]]]


def test_the_seed_decides_the_start_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(pruner(seed=1).queries, pruner(seed=1).queries)
    assert not torch.equal(pruner(seed=1).queries, pruner(seed=2).queries)
    assert torch.equal(before, torch.get_rng_state())
