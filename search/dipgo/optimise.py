"""The gradient search: the pruner trained on a few prompts through the SuperNet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search.core.errors import SearchError
from search.core.table import keep_of
from search.dipgo import losses
from search.dipgo.postprocess import Scores, subnet_of
from search.dipgo.pruner import Pruner, straight_through
from search.dipgo.recipe import PAPER
from search.dipgo.records import DipGoProgress, DipGoRun
from search.model.decoder import Decoder
from search.runs.checkpoints import Checkpoint
from search.runs.rates import warmup_cosine
from search.supernet.shares import reuse_unread, step_costs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search.dipgo.recipe import DipGoRecipe
    from search.supernet.supernet import Case, SuperNet

REMEMBERED = 64
"""Most full runs kept for comparison; with fixed noise that of a prompt never changes."""


def optimise(
    net: SuperNet,
    recipe: DipGoRecipe,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    folder: DipGoRun | None = None,
    resume: bool = False,
    progress: Callable[[DipGoProgress], None] | None = None,
) -> Scores:
    """Train a pruner and return its scores.

    Started by `accelerate launch`, every process takes its share of the prompts and gradients are
    averaged: P processes give the gates of one with P times the batch.

    Args:
        net: open.
        recipe: how.
        prompts: to sample; each epoch goes through them in another order.
        seed: of the pruner, the order of the prompts and the noise.
        folder: for the log, the plot and checkpoints; None writes nothing.
        resume: go on from the checkpoint in `folder`, if there is one.
        progress: called after each iteration.
    """
    if not prompts:
        msg = "the gradient search has no prompts; give one or more"
        raise SearchError(msg)
    run = _Search(net, recipe, prompts, seed)
    done = run.restore(folder, resume=resume) if folder is not None else []
    run.workers.wait()  # until each has looked for an earlier run
    if folder is not None and run.workers.is_first:
        folder.start(done)
    for iteration in range(len(done), recipe.iterations):
        done.append(run.iterate(iteration))
        if progress is not None and run.workers.is_first:
            progress(done[-1])
        if folder is None or not run.workers.is_first:
            continue
        folder.log(done[-1])
        if len(done) % recipe.save_every == 0 or len(done) == recipe.iterations:
            folder.save(run.checkpoint(done))
    return run.scores()


@dataclass(frozen=True)
class Workers:
    """The processes that search together; one is the usual number."""

    count: int
    index: int

    @staticmethod
    def present(device: torch.device) -> Workers:
        """The processes that `accelerate launch` started."""
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        return Workers(state.num_processes, state.process_index)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def mean(self, tensor: Tensor) -> Tensor:
        """Of the same tensor in all processes."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        result: Tensor = reduce(tensor, "mean")
        return result


class _Search:
    """The state of one search."""

    def __init__(
        self, net: SuperNet, recipe: DipGoRecipe, prompts: Sequence[str], seed: int
    ) -> None:
        self.net, self.recipe, self.prompts, self.seed = net, recipe, tuple(prompts), seed
        self.device = torch.device(net.pipeline.denoiser.device)
        self.workers = Workers.present(self.device)
        self.pruner = Pruner(net.shape, net.allowed, recipe, seed=seed).to(self.device)
        self.optimizer = torch.optim.SGD(
            self.pruner.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        costs = step_costs(net.full, net.choices)
        self.costs = torch.tensor(costs, dtype=torch.float32, device=self.device)
        self.decoder = Decoder(net.pipeline, net.pipeline.size(net.full.binding.noise_shape))
        self.targets = lru_cache(maxsize=REMEMBERED)(self._target)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, in the type of the latents."""
        pictures: Tensor = self.decoder(latents.to(self.decoder.dtype))
        return pictures.to(latents.dtype)

    def iterate(self, iteration: int) -> DipGoProgress:
        """One step of the optimiser."""
        start = time.perf_counter()
        recipe = self.recipe
        rate = warmup_cosine(recipe.learning_rate, recipe.warmup, iteration, recipe.iterations)
        scores = self.pruner()
        gates = straight_through(scores)
        case, target = self.targets(self._drawn(iteration))
        run = self.net.run(gates, case)
        consistency = losses.consistency_loss(run.latents, target, self.decode)
        sparsity = losses.sparsity_loss(gates, self.costs)
        keep = self._keep(scores)
        loss = consistency + (recipe.alpha * sparsity if keep >= recipe.tau else 0)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.pruner.parameters():
            if parameter.grad is not None:
                parameter.grad = self.workers.mean(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(self.pruner.parameters(), recipe.clip)
        self._require_finite(iteration, norm)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        return DipGoProgress(
            iteration=iteration,
            consistency=float(self.workers.mean(consistency.detach())),
            sparsity=float(sparsity.detach()),
            keep=keep,
            learning_rate=rate,
            seconds=time.perf_counter() - start,
        )

    def scores(self) -> Scores:
        """What the pruner says now."""
        with torch.no_grad():
            return Scores(self.net.choices, self.pruner().double().cpu().numpy())

    def checkpoint(self, done: Sequence[DipGoProgress]) -> Checkpoint[DipGoProgress]:
        """The state that a resumed search needs; prompts and noise follow from the iteration."""
        return Checkpoint(
            identity=self._identity(),
            states={
                "pruner": self.pruner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            done=tuple(done),
        )

    def restore(self, folder: DipGoRun, *, resume: bool) -> list[DipGoProgress]:
        """Resume from the last checkpoint; returns its number of iterations."""
        found = folder.load(resume=resume)
        if found is None:
            return []
        folder.require_same(found, self._identity())
        self.pruner.load_state_dict(found.states["pruner"])
        self.optimizer.load_state_dict(found.states["optimizer"])
        return list(found.done)

    def _identity(self) -> dict[str, object]:
        """What a checkpoint must agree with."""
        full = self.net.full
        return {
            "recipe": vars(self.recipe) | {"save_every": PAPER.save_every},
            "seed": self.seed,
            "prompts": self.prompts,
            "binding": full.binding.to_json(),
            "guidance": full.guidance,
            "blocks": full.topology.blocks,
            **({"bases": later} if (later := full.topology.later_calls) else {}),
            "processes": self.workers.count,
            "dtype": self.net.pipeline.dtype,
        }

    def _drawn(self, iteration: int) -> tuple[tuple[int, int], ...]:
        """Prompt and noise, as numbers, of each of this process's pictures."""
        batch, workers, count = self.recipe.batch, self.workers, len(self.prompts)
        first = (iteration * workers.count + workers.index) * batch
        drawn = []
        for picture in range(first, first + batch):
            order = np.random.default_rng((self.seed, picture // count)).permutation(count)
            noise = 1 + picture if self.recipe.fresh_noise else 0
            drawn.append((int(order[picture % count]), noise))
        return tuple(drawn)

    def _target(self, drawn: tuple[tuple[int, int], ...]) -> tuple[Case, losses.LossTarget]:
        """The inputs of a run, and the full sampler's result for them."""
        shape = self.net.full.binding.latent_shape
        noise = [
            np.random.default_rng((self.seed, 1, number)).standard_normal(shape, np.float32)
            for _, number in drawn
        ]
        prompts = [self.prompts[number] for number, _ in drawn]
        with torch.no_grad():
            case = self.net.case(prompts, torch.tensor(np.stack(noise), device=self.device))
            run = self.net.run(self.net.full_gates().to(self.device), case)
            return case, losses.loss_target(self.recipe.consistency, run.latents, self.decode)

    def _keep(self, scores: Tensor) -> float:
        """The fraction of the cost that the best choices leave."""
        values = scores.detach().double().cpu().numpy()
        subnet = subnet_of(self.net.full, Scores(self.net.choices, values))
        return keep_of(reuse_unread(subnet) if self.recipe.reuse_unread else subnet)

    def _require_finite(self, iteration: int, norm: Tensor) -> None:
        if not torch.isfinite(norm):
            msg = (
                f"the gradient of iteration {iteration} is not finite; search with --dtype float32 or "
                "bfloat16, or check the pipeline's weights and the guidance scale"
            )
            raise SearchError(msg)
