"""The process of one row: opens its contender once and runs it on request."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from bisect import bisect_right
from contextlib import ExitStack, suppress
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

from engines.base import EngineOptions, make_engine
from engines.bench.records import Contender, ContenderKind, Sample
from engines.memory import Memory, while_running
from engines.parity import given_latents
from engines.runner import Runner
from exporter.bundle import Bundle
from search.core.precision import precision_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engines.runner import Result
    from search.core.topology import Topology

SEED = 0


class Runnable(Protocol):
    """A contender, loaded."""

    def run(self) -> Sample:
        """Make the pictures of one prompt."""


def start() -> None:
    """Keep the libraries' output apart from the parent's, and end when that is killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)
    warnings.simplefilter("ignore")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def load(contender: Contender) -> float:
    """Open it; returns the seconds it took."""
    began = time.perf_counter()
    opened(contender)
    return time.perf_counter() - began


def warm_up(contender: Contender) -> Memory | None:
    """Run it once; returns the memory of this process during the run."""
    return while_running(opened(contender).run)


def measure(contender: Contender) -> Sample:
    """Run it once."""
    return opened(contender).run()


@cache
def opened(contender: Contender) -> Runnable:
    """The contender, opened once per process."""
    bundle = Bundle.open(contender.bundle, **contender.shape.asked).with_loras(contender.loras)
    if contender.kind is ContenderKind.ENGINE:
        return OnEngine(bundle, contender)
    return InTorch(bundle, contender)


class _EnoughError(Exception):
    """Ends a run once its calls have been timed."""


class OnEngine:
    """A bundle on an engine."""

    def __init__(self, bundle: Bundle, contender: Contender) -> None:
        options = EngineOptions(threads=contender.threads)
        self._runner = Runner(bundle, make_engine(contender.engine, contender.device, options))
        self._latents, self._prompt = given_latents(bundle, SEED), bundle.default_prompt
        self._enough = contender.calls

    def run(self) -> Sample:
        """See `Runnable`.

        Where the loop runs in one piece, its calls are timed in a run of their own. Where a run is
        broken off, its first call counts what the prompt takes too.
        """
        ends: list[float] = []

        def tell(number: int, *_: object) -> None:
            ends.append(time.perf_counter())
            if number + 1 == self._enough:
                raise _EnoughError

        began = time.perf_counter()
        try:
            result = self._once(tell)
        except _EnoughError:
            return Sample(ends[-1] - began, ends[-1] - began, _between([began, *ends]))
        total = time.perf_counter() - began
        calls = _between([began + result.seconds["condition"], *ends])
        if not self._runner.on_host:
            began = time.perf_counter()
            result = self._once(None)
            total = time.perf_counter() - began
        return Sample(total, result.seconds["loop"], calls)

    def _once(self, on_call: Callable[..., None] | None) -> Result:
        return self._runner.run(
            self._prompt,
            latents=self._latents,
            seed=SEED,
            pictures=self._runner.bundle.example_pictures,
            on_call=on_call,
        )


class InTorch:
    """diffusers' own pipeline, as it is, gated, with the DeepCache package, or compiled."""

    def __init__(self, bundle: Bundle, contender: Contender) -> None:
        """Open the pipeline, and have it compute in the contender's dtype."""
        import torch

        from search.model.family import Request
        from search.model.ip_adapter import attach_ip_adapter
        from search.model.lora import attach, fuse
        from search.model.opening import open_for
        from search.model.reference import called_networks

        if contender.threads is not None:
            torch.set_num_threads(contender.threads)
        subnet = bundle.subnet
        self._opened = open_for(subnet, contender.pipeline, weights=True, device=contender.device)
        fuse(self._opened.pipe, bundle.loras)
        attach(self._opened.pipe, bundle.live_loras)
        attach_ip_adapter(self._opened.pipe, contender.pipeline, bundle.ip_adapter)
        if contender.dtype != "float32":
            self._opened.pipe.to(getattr(torch, precision_named(contender.dtype).torch))
        latents = given_latents(bundle, SEED)
        self._grid = subnet.binding.grid
        self._subnet = subnet if contender.kind is ContenderKind.REFERENCE else None
        self._request = Request(
            prompts=(bundle.default_prompt,) * bundle.latent_shape[0],
            steps=subnet.binding.inference_steps,
            guidance=bundle.guidance,
            latents=None if latents is None else torch.from_numpy(latents),
        ).sized(self._opened.size(subnet.binding.noise_shape))
        self._wait: Callable[[], None] = (
            (lambda: None) if contender.device == "cpu" else torch.cuda.synchronize
        )
        self._networks = [
            network for network, _ in called_networks(self._opened.networks, subnet.topology)
        ]
        self._ends = forwards_before(subnet.topology, range(subnet.full_calls))
        self._forwards, self._enough = self._prepared(contender), contender.calls

    def _prepared(self, contender: Contender) -> list[Callable[..., Any]]:
        """The forwards of the networks as this contender has them."""
        import torch

        if contender.kind is ContenderKind.DEEPCACHE:
            from DeepCache import DeepCacheSDHelper

            helper = DeepCacheSDHelper(pipe=self._opened.pipe)
            helper.set_params(cache_interval=contender.interval, cache_branch_id=contender.branch)
            helper.enable()
        if contender.kind is ContenderKind.COMPILE:
            return [torch.compile(network.forward) for network in self._networks]
        return [network.forward for network in self._networks]

    def run(self) -> Sample:
        """See `Runnable`."""
        import torch

        from search.model.reference import forward_replaced, sample

        marks, steps = list[float](), list[int]()

        def timed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            step = self._step_of(len(steps))
            if self._enough is not None and len({*steps, step}) > self._enough:
                raise _EnoughError
            if not marks:
                marks.append(time.perf_counter())
            output = forward(*args, **kwargs)
            self._wait()
            marks.append(time.perf_counter())
            steps.append(step)
            return output

        began = time.perf_counter()
        with suppress(_EnoughError), ExitStack() as stack:
            for network, forward in zip(self._networks, self._forwards, strict=True):
                stack.enter_context(forward_replaced(network, partial(timed, forward)))
            sample(
                self._opened,
                self._request,
                self._subnet,
                generator=torch.Generator().manual_seed(SEED),
                grid=self._grid,
            )
        total = time.perf_counter() - began
        ends = dict(zip(steps, marks[1:], strict=True))
        return Sample(total, marks[-1] - marks[0], _between([marks[0], *ends.values()]))

    def _step_of(self, forward: int) -> int:
        """The step that a forward of a network belongs to; a gated step may leave some of its own out."""
        from search.model.current_step import current_step

        return bisect_right(self._ends, forward) if self._subnet is None else current_step()


def forwards_before(topology: Topology, steps: Iterable[int]) -> tuple[int, ...]:
    """How often networks are called before each of `steps`, and in all.

    A step calls one for each of its streams, as Wan does with and without the prompt; not all steps have
    the same.
    """
    return (0, *accumulate(len(topology.calls_of(step)) for step in steps))


def _between(marks: list[float]) -> tuple[float, ...]:
    return tuple(after - before for before, after in pairwise(marks))
