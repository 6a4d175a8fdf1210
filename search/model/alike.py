"""Whether all steps of a pipeline's loop do the same, so that one body stands for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from search.core.errors import SearchError
from search.model.answers import Answers
from search.model.encoding import Encoding
from search.model.failures import pipeline_failures
from search.model.hollow import shapes_only
from search.model.parts_in_place import on_vae_device, with_gradients, with_parts
from search.model.scheduler import StandIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.model.family import OpenedPipeline, Request


class Done(NamedTuple):
    """What one step did.

    Attributes:
        calls: of the denoiser, the rows of each.
        ways: where the pipeline asked a tensor which way to go.
    """

    calls: tuple[tuple[int, ...], ...]
    ways: tuple[tuple[str, int, Any], ...]


def require_alike_steps(
    pipeline: OpenedPipeline, request: Request, timesteps: Sequence[float]
) -> None:
    """Refuse a pipeline whose steps at these timesteps do not all do the same.

    Its own loop is run without computing anything.

    Raises:
        SearchError: some steps call the denoiser more often, another network, or without guidance.
    """
    pipe = pipeline.pipe
    answers, calls = Answers(), list[tuple[int, ...]]()
    scheduler = _Walk(timesteps, pipe.scheduler, answers, calls)

    def count(module: Any, args: Any, kwargs: Any) -> None:
        del module
        leaves = [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)]
        calls.append(tuple(leaf.shape[0] for leaf in leaves[:1] if leaf.ndim))

    handle = pipeline.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    encoding = Encoding(pipe)
    try:
        with (
            pipeline_failures(pipe),
            on_vae_device(pipe),
            with_gradients(pipe),
            with_parts(pipe, scheduler=scheduler),
            encoding.noted(),
            answers.recorded(unless=lambda: encoding.is_encoding),
            shapes_only(pipeline.denoiser, answers),
            torch.no_grad(),
        ):
            pipeline.family.call(pipe, request, None)
    except _WalkedError:
        pass
    finally:
        handle.remove()
    if not scheduler.done:
        msg = (
            f"a {type(pipe).__name__} does not step the scheduler that it has, but copies of it (as for "
            "frames that are not all as far); such pipelines are not supported"
        )
        raise SearchError(msg)
    first, *others = scheduler.done
    # What comes before the loop is asked before the first step too.
    ways = first.ways[len(first.ways) - len(others[0].ways) :] if others else first.ways
    usual = Done(first.calls, ways)
    odd = [step for step, done in enumerate(others, 1) if done != usual]
    if odd:
        msg = (
            f"a {type(pipe).__name__} does other things at steps {odd[:8]} than at step 0 (another "
            "network, or another guidance); such pipelines are not supported: switch that off with --call, "
            "or take a part of its steps with --start-step and --end-step"
        )
        raise SearchError(msg)


class _WalkedError(Exception):
    """Ends the pipeline's call behind its last step."""


class _Walk(StandIn):
    """A stand-in for a scheduler that leaves the latents alone and notes what is done between its steps."""

    def __init__(
        self,
        timesteps: Sequence[float],
        own: Any,
        answers: Answers,
        calls: list[tuple[int, ...]],
    ) -> None:
        super().__init__(torch.tensor(timesteps), own)
        self._answers, self._calls = answers, calls
        self.done: list[Done] = []

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        **others: Any,
    ) -> Any:
        """Note what was done since the last one."""
        del model_output, timestep, others
        ways = tuple(known for known in self._answers.known if known[0] == "__bool__")
        self.done.append(Done(tuple(self._calls), ways))
        self._answers.known.clear()
        self._calls.clear()
        if len(self.done) == len(self.timesteps):
            raise _WalkedError
        return SchedulerOutput(prev_sample=sample) if return_dict else (sample, sample)
