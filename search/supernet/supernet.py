"""The SuperNet: a denoiser with gated blocks, chained over all steps of a sampler, differentiable.

At every step but the first (that has it) a block emits, weighed by its gates, what each action would emit:

    fresh * g_RUN + cached output * g_REUSE + (input + cached residual) * g_DELTA + ...,

and this is its cached output from then on; nothing is detached. The cached residual is
`g_RUN * (fresh - input) + (1 - g_RUN) * cached residual`, that of the last run; so are the outputs of
the last two runs. All tensors of a block share its gates. Where a gate is exactly 0 or 1 no product is formed, a reused tensor is the
cached one itself, and nothing is differentiated through a block whose result has no weight: values
and gradients stay those of the formula, but cost time and memory only where they can be felt.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search.core.actions import RECORDS, Action, Source
from search.core.errors import SearchError
from search.core.streams import block_name, is_inside, module_of, stream_of
from search.model.body import Body, places_of
from search.model.family import Request
from search.model.reference import called_networks, forward_replaced
from search.model.removed import base_of, tensor_arguments
from search.model.shapes import tensors_of
from search.supernet.chain import Checkpointed, StepChain
from search.supernet.gates import REUSE, RUN, Carry, GatedStep, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from search.core.sampler import SamplerTable
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

CHOICES = (Action.RUN, Action.REUSE)
CHOICES_WITH_DELTA = (Action.RUN, Action.REUSE, Action.DELTA)


@dataclass(frozen=True)
class Case:
    """What to sample: B prompts, and the noise to start from.

    Attributes:
        bodies: a step for these prompts, of each group of steps.
        noise: of unit variance, `[B, ...]`.
    """

    bodies: tuple[Body, ...]
    noise: Tensor


@dataclass(frozen=True)
class SuperNetRun:
    """One run of the SuperNet; differentiable in the gates.

    Attributes:
        predictions: the noise prediction of each step, guidance applied, `[T, B, ...]`.
        latents: the denoiser's input at each step and then the final latents, `[T + 1, B, ...]`.
    """

    predictions: Tensor
    latents: Tensor


@contextmanager
def supernet(
    pipeline: Pipeline,
    full: SubNet,
    *,
    choices: tuple[Action, ...] = CHOICES,
    every: int = 1,
) -> Iterator[SuperNet]:
    """While open, the denoiser's blocks are gated; on leaving, the denoiser is as it was.

    Args:
        pipeline: with its weights loaded.
        full: the SubNet that runs everything: it says blocks, sampler, guidance.
        choices: what a block may do; RUN and REUSE, and others if wanted.
        every: of checkpointing. 0 keeps all activations for the way back. With n > 0 none is kept:
            caches are kept at every n-th step, and what lies between is computed again.
    """
    net = SuperNet(pipeline, full, choices, every)
    known = full.topology.streams
    with ExitStack() as stack:
        for network, streams in called_networks(pipeline.networks, full.topology):
            names = [n for n in full.topology.blocks if stream_of(n, known) in streams]
            for name in sorted({module_of(name, known) for name in names}, reverse=True):
                module = network.get_submodule(name)
                forward = net.gated_module(name, module, streams)
                stack.enter_context(forward_replaced(module, forward))
            stack.enter_context(net.counting(network))
        yield net


class SuperNet:
    """Runs the gated denoiser over all steps; see `supernet`, which makes it.

    Attributes:
        choices: the meaning of the gates' last axis.
        allowed: which choices each block has, `[N, A]` bool.
    """

    def __init__(
        self, pipeline: Pipeline, full: SubNet, choices: tuple[Action, ...], every: int
    ) -> None:
        if choices[: len(CHOICES)] != CHOICES or len(set(choices)) < len(choices):
            msg = f"the SuperNet has gates for RUN, REUSE and then others, not for {choices}"
            raise SearchError(msg)
        self.records = tuple(RECORDS[choice] for choice in choices)
        self.pipeline, self.full, self.choices, self.every = pipeline, full, choices, every
        self.topology = full.topology
        self.table: SamplerTable = pipeline.sampler_of(full)
        self.table.require_fixed()
        self._now: GatedStep | None = None
        self._body: Body | None = None
        self._streams: Iterator[str] = iter(())
        self._stream = ""
        self._templates: dict[int, Template] = {}
        self._unlike_inputs: set[int] = set()
        names = full.topology.blocks
        self._inside = [
            [i for i, other in enumerate(names) if is_inside(other, name)] for name in names
        ]
        self.allowed = torch.ones(len(names), len(choices), dtype=torch.bool)
        able = torch.tensor([i in full.topology.based for i in range(len(names))])
        for place, record in enumerate(self.records):
            if Source.BASE in record.row:
                self.allowed[:, place] = able
        # A removed block is its own SKIP: RUN and nothing else.
        gone = [action is Action.SKIP for action in full.actions[0]]
        self.allowed[torch.tensor(gone), 1:] = False
        firsts = [full.topology.first_step(block) for block in range(len(names))]
        self._first = torch.arange(full.steps)[:, None] == torch.tensor(firsts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the gates: steps, blocks, choices."""
        return self.full.steps, len(self.topology.blocks), len(self.choices)

    def inside(self, block: int) -> list[int]:
        """A block and those within it."""
        return self._inside[block]

    def case(self, prompts: Sequence[str], noise: Tensor, *, negative: str = "") -> Case:
        """Ask for one picture per prompt, from `noise` `[B, ...]` of unit variance."""
        binding = self.full.binding
        if (len(prompts), *binding.latent_shape) != noise.shape:
            msg = (
                f"the noise has shape {tuple(noise.shape)}, but {len(prompts)} prompts of this "
                f"SubNet need {(len(prompts), *binding.latent_shape)}; give one noise per prompt"
            )
            raise SearchError(msg)
        request = Request(
            prompts=tuple(prompts),
            steps=binding.inference_steps,
            guidance=self.full.guidance,
            negative=negative,
            latents=noise,
        ).sized(self.pipeline.size(binding.noise_shape))
        places = places_of(self.full)
        return Case(tuple(Body(self.pipeline, request, place=place) for place in places), noise)

    def full_gates(self) -> Tensor:
        """Gates of a SuperNet that runs everything, `[T, N, A]`."""
        gates = torch.zeros(self.shape)
        gates[..., RUN] = 1
        return gates

    def run(self, gates: Tensor, case: Case) -> SuperNetRun:
        """Sample with `gates` `[T, N, A]`; those of the first step of a block are ignored, it runs."""
        self._check(gates)
        first = self._first[..., None].to(gates.device)
        gates = torch.where(first, self.full_gates().to(gates), gates)
        chain = StepChain(
            gated_call=lambda number, sample, now: self._step(number, sample, case, now),
            noise=case.noise,
            rows=self.table.inputs.tolist(),
            weights=cast("list[list[list[float]]]", gates.detach().tolist()),
            every=self.every,
        )
        differentiable = gates.requires_grad and torch.is_grad_enabled()
        if self.every and differentiable:
            predictions = cast("Tensor", Checkpointed.apply(gates, chain))  # type: ignore[no-untyped-call]
        else:
            with torch.set_grad_enabled(differentiable):
                predictions = torch.stack(chain.predictions(gates))
        rows = np.vstack([self.table.inputs, self.table.final])
        coefficients = torch.tensor(rows, dtype=case.noise.dtype, device=case.noise.device)
        values = torch.cat([case.noise[None], predictions])
        return SuperNetRun(predictions, torch.tensordot(coefficients, values, 1))

    def _check(self, gates: Tensor) -> None:
        if gates.shape != self.shape:
            msg = (
                f"the gates have shape {tuple(gates.shape)}, but steps, blocks and choices are "
                f"{self.shape}; give one gate for each"
            )
            raise SearchError(msg)
        wrong = (gates.detach()[1:] != 0).any(0).cpu() & ~self.allowed
        if wrong.any():
            cells = sorted(
                f"{self.choices[choice]} to {self.topology.blocks[block]}"
                for block, choice in wrong.nonzero().tolist()
            )
            msg = (
                f"the gates give {', '.join(cells)}, which these blocks cannot do: {Action.DELTA} needs "
                f"an input of the shape of each output, {Action.REUSE} a block that was not removed; "
                f"give {Action.RUN}"
            )
            raise SearchError(msg)

    def _step(
        self, number: int, sample: Tensor, case: Case, now: GatedStep
    ) -> tuple[Tensor, Carry]:
        time = self.full.timesteps[number]
        exact = torch.int64 if time.is_integer() else torch.float32
        timestep = torch.tensor(time, dtype=exact, device=sample.device)
        return self.call(number, sample, timestep, case.bodies[self.topology.group_of(number)], now)

    def call(
        self, number: int, sample: Tensor, timestep: Tensor, body: Body, now: GatedStep
    ) -> tuple[Tensor, Carry]:
        """One step, gated by `now`: the prediction `[B, ...]`, the next carry."""
        self._now, self._streams = now, iter(self.topology.calls_of(number))
        self._body = body
        try:
            prediction = body(sample, timestep)
        finally:
            self._now = None
        return prediction.to(sample.dtype), now.carry(len(self.topology.ports))

    @contextmanager
    def counting(self, denoiser: nn.Module) -> Iterator[None]:
        """While open, the calls of the denoiser within a step are counted."""

        def count(*_: Any) -> None:
            if self._body is not None and not self._body.is_before:
                self._stream = next(self._streams, "")

        # The whole denoiser may be a block, so its call has begun when its hooks run.
        handle = denoiser.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()

    def gated_module(
        self, name: str, module: nn.Module, streams: Sequence[str]
    ) -> Callable[..., Any]:
        """The forward of a module that is a block in some streams."""
        number = {block: i for i, block in enumerate(self.topology.blocks)}
        names = {stream: block_name(stream, name) for stream in streams}
        forward = module.forward
        each = {s: self.gated(number[n], module) for s, n in names.items() if n in number}

        def run(*args: Any, **kwargs: Any) -> Any:
            gate = forward if self._now is None else each.get(self._stream, forward)
            return gate(*args, **kwargs)

        return run

    def gated(self, block: int, module: nn.Module) -> Callable[..., Any]:
        """The forward of a block, gated while a step is in progress and as it was otherwise."""
        ports = {self.topology.ports[port].index: port for port in self.topology.ports_of[block]}
        forward = module.forward
        has_base = block in self.topology.based and any(
            Source.BASE in record.row and allowed
            for record, allowed in zip(self.records, self.allowed[block].tolist(), strict=True)
        )

        def run(*args: Any, **kwargs: Any) -> Any:
            now = self._now
            if now is None:
                return forward(*args, **kwargs)
            fresh: dict[int, Tensor] = {}
            if self._is_idle(now, block):
                template = self._templates[block]
            else:
                with torch.set_grad_enabled(self._is_felt(now, block)):
                    output = forward(*args, **kwargs)
                template = Template.of(output, ports)
                tensors = tensors_of(output)
                fresh = {port: tensors[index] for index, port in ports.items()}
                if has_base:
                    shape = tensor_arguments(module, args, kwargs)[0].shape
                    if any(tensor.shape != shape for tensor in fresh.values()):
                        self._unlike_inputs.add(block)
                if template.is_complete:
                    self._templates[block] = template
            for port in ports.values():
                base = None
                if has_base and (fresh or block not in self._unlike_inputs):
                    base = self._base(port, now, module, args, kwargs, fresh.get(port))
                now.emit(block, port, fresh.get(port), base, self.records)
            return template.filled(now.outputs)

        return run

    def _base(
        self,
        port: int,
        now: GatedStep,
        module: nn.Module,
        args: Any,
        kwargs: Any,
        fresh: Tensor | None,
    ) -> Tensor:
        """The base of a port of a module that is called."""
        base = self.topology.bases[port]
        if base.prediction is not None:
            return now.outputs[base.prediction]
        return base_of(module, base.argument, args, kwargs, fresh)

    def _is_idle(self, now: GatedStep, block: int) -> bool:
        """Whether neither the block's result nor a gradient to its gates is wanted."""
        is_felt = torch.is_grad_enabled() and now.gates[block].requires_grad
        if is_felt or block not in self._templates:
            return False
        if block in self._unlike_inputs and self._emits_base(now, block):
            return False  # Its base may be zeros, whose shape is that of its output.
        held = all(now.weights[i][REUSE] == 1 for i in self._inside[block])
        return now.weights[block][RUN] == 0 and held

    def _emits_base(self, now: GatedStep, block: int) -> bool:
        pairs = zip(self.records, now.weights[block], strict=True)
        return any(weight and Source.BASE in record.row for record, weight in pairs)

    def _is_felt(self, now: GatedStep, block: int) -> bool:
        """Whether a gradient may pass through the block; gates inside it always receive theirs."""
        weightless = now.weights[block][RUN] == 0 and not self._inside[block]
        return torch.is_grad_enabled() and not weightless
