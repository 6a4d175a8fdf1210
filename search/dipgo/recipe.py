"""The settings of the gradient search, and those of the paper. No framework."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass

from search.core.errors import SearchError


class Consistency(enum.StrEnum):
    """Which part of a gated run is compared with the full one."""

    SSIM = "ssim"
    """The decoded pictures, by structural similarity."""
    LATENT = "latent"
    """The final latents, by relative squared error."""
    STEPS = "steps"
    """The latents after every step, likewise, averaged."""


class PrunerEncoder(enum.StrEnum):
    """The encoder that mixes the pruner's queries."""

    ATTENTION = "attention"
    """One transformer layer over all queries."""
    LINEAR = "linear"
    """Two linear layers, along the cells and along the width."""


@dataclass(frozen=True)
class DipGoRecipe:
    """How gates are optimised and made a SubNet.

    Attributes:
        iterations: of the optimiser.
        batch: pictures per iteration and process.
        learning_rate: of SGD after the warm-up; it falls to 0 along a cosine.
        weight_decay: of SGD.
        warmup: iterations in which the learning rate rises linearly.
        clip: largest norm of the gradient.
        alpha: weight of the sparsity loss.
        tau: below this kept fraction of the cost the sparsity loss is left out.
        consistency: what is compared.
        encoder: of the pruner.
        width: of the pruner's queries.
        head: widths of the hidden layers of the head that each (step, block) has.
        delta: whether blocks may also add their cached residual.
        fresh_noise: new noise at every iteration; otherwise it is always the same.
        every: of the SuperNet's checkpointing; 0 keeps all activations.
        reuse_unread: turn blocks that nobody reads in a step into reused ones, which changes what
            later steps find in the cache.
        tolerance: how far below the requested keep a SubNet may be, where the gates are fine enough.
        save_every: iterations between two checkpoints.
    """

    iterations: int = 1000
    batch: int = 1
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 10
    clip: float = 1.0
    alpha: float = 1.0
    tau: float = 0.2
    consistency: Consistency = Consistency.SSIM
    encoder: PrunerEncoder = PrunerEncoder.ATTENTION
    width: int = 512
    head: tuple[int, ...] = (128, 128)
    delta: bool = False
    fresh_noise: bool = False
    every: int = 1
    reuse_unread: bool = True
    tolerance: float = 0.0125
    save_every: int = 100

    def __post_init__(self) -> None:
        """Check what no search could use."""
        for name in ("iterations", "batch", "width", "save_every"):
            if getattr(self, name) < 1:
                msg = f"the recipe's {name} is {getattr(self, name)}; give 1 or more"
                raise SearchError(msg)
        for name in ("learning_rate", "weight_decay", "alpha", "warmup", "every", "tolerance"):
            if not getattr(self, name) >= 0:
                msg = f"the recipe's {name} is {getattr(self, name)}; give 0 or more"
                raise SearchError(msg)
        if not self.clip > 0:
            msg = f"the recipe's clip is {self.clip}; give a norm above 0"
            raise SearchError(msg)

    def shortened(self, iterations: int) -> DipGoRecipe:
        """The same search in another number of iterations; the learning rate is scaled to match."""
        if iterations < 1:
            msg = f"the recipe's iterations is {iterations}; give 1 or more"
            raise SearchError(msg)
        return dataclasses.replace(
            self,
            iterations=iterations,
            learning_rate=self.learning_rate * self.iterations / iterations,
        )


PAPER = DipGoRecipe()
"""DiP-GO as published (arXiv 2410.16942), with the queries' encoder in use."""
