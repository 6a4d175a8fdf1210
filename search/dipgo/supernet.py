"""The SuperNet: a denoiser with gated blocks, chained over all steps of a sampler, differentiable.

At every step but the first a block emits, weighed by its gates,

    fresh * g_RUN + cached output * g_REUSE + (input + cached residual) * g_DELTA,

and this is its cached output from then on; nothing is detached. The cached residual is
`g_RUN * (fresh - input) + (1 - g_RUN) * cached residual`: that of the last run. All tensors of a
block share its gates. Where a gate is exactly 0 or 1 no product is formed, a reused tensor is the
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
from torch.utils import _pytree as pytree

from search.errors import SearchError
from search.model.family import Request
from search.model.reference import forward_replaced
from search.model.trace import DenoiserCall, record_call, tensors_of
from search.subnet import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from search.model.pipeline import Pipeline
    from search.sampler import SamplerTable
    from search.subnet import SubNet

CHOICES = (Action.RUN, Action.REUSE)
CHOICES_WITH_DELTA = (Action.RUN, Action.REUSE, Action.DELTA)
_RUN, _REUSE, _DELTA = 0, 1, 2


@dataclass(frozen=True)
class Case:
    """What to sample: B prompts as the denoiser's arguments, and the noise to start from.

    Attributes:
        call: the arguments of one call, as diffusers' pipeline gives them.
        noise: of unit variance, `[B, C, H, W]`.
    """

    call: DenoiserCall
    noise: Tensor


@dataclass(frozen=True)
class Trajectory:
    """One run of the SuperNet; differentiable in the gates.

    Attributes:
        predictions: the noise prediction of each step, guidance applied, `[T, B, C, H, W]`.
        latents: the denoiser's input at each step and then the final latents, `[T + 1, B, C, H, W]`.
    """

    predictions: Tensor
    latents: Tensor


@dataclass(frozen=True)
class _Carry:
    """What one step hands to the next: per port, what its block emitted and its residual."""

    outputs: tuple[Tensor, ...] = ()
    residuals: tuple[Tensor | None, ...] = ()

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.outputs, *(r for r in self.residuals if r is not None)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> _Carry:
        """The same with other tensors, in the order of `tensors`."""
        rest = iter(tensors[len(self.outputs) :])
        residuals = tuple(None if r is None else next(rest) for r in self.residuals)
        return _Carry(tuple(tensors[: len(self.outputs)]), residuals)


class _Step:
    """One step in progress: its gates, what came in, what goes out.

    `gates` are one row `[A]` per block, and `weights` their values, known without asking the device;
    both are empty at step 0, where everything runs.
    """

    def __init__(self, gates: tuple[Tensor, ...], weights: list[list[float]], came: _Carry) -> None:
        self.gates, self.weights, self.came = gates, weights, came
        self.outputs: dict[int, Tensor] = {}
        self.residuals: dict[int, Tensor] = {}

    def emit(self, block: int, port: int, fresh: Tensor | None, entered: Tensor | None) -> None:
        """Decide what a port emits, and its residual if the block's input is given.

        `fresh` may be missing where its gate is 0 and gradients are off.
        """
        if not self.gates:
            assert fresh is not None, "step 0 runs everything"
            self.outputs[port] = fresh
            if entered is not None:
                self.residuals[port] = fresh - entered
            return
        gates, weights = self.gates[block], self.weights[block]
        options = [fresh, self.came.outputs[port]]
        residual = self.came.residuals[port]
        if entered is not None and residual is not None:
            options.append(entered + residual)
            now = None if fresh is None else fresh - entered
            run = weights[_RUN]
            either = torch.stack([gates[_RUN], 1 - gates[_RUN]])
            self.residuals[port] = _mix(either, [run, 1 - run], [now, residual])
        self.outputs[port] = _mix(gates, weights, options)

    def carry(self, ports: int) -> _Carry:
        """What goes out; a block inside one that was not called hands on what it got."""
        came = self.came
        return _Carry(
            tuple(self.outputs[i] if i in self.outputs else came.outputs[i] for i in range(ports)),
            tuple(
                self.residuals.get(i, came.residuals[i] if came.residuals else None)
                for i in range(ports)
            ),
        )


@dataclass(frozen=True)
class _PortOf:
    """In the place of a tensor: it is that of a port."""

    port: int


@dataclass(frozen=True)
class _Template:
    """What a block returns, with its ports in the place of tensors."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    @staticmethod
    def of(output: Any, ports: dict[int, int]) -> _Template:
        """Of `output`, whose i-th tensor is port `ports[i]` if there is one; it may stand twice."""
        leaves, spec = pytree.tree_flatten(output)
        tensors = tensors_of(output)
        known = {id(tensors[index]): _PortOf(port) for index, port in ports.items()}
        return _Template(tuple(known.get(id(leaf), leaf) for leaf in leaves), spec)

    @property
    def is_complete(self) -> bool:
        """Whether the ports are all there is to it."""
        return not any(isinstance(leaf, Tensor) for leaf in self.leaves)

    def filled(self, tensors: dict[int, Tensor]) -> Any:
        """The output with the tensors of the ports."""
        leaves = [tensors[x.port] if isinstance(x, _PortOf) else x for x in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


@contextmanager
def supernet(
    pipeline: Pipeline,
    full: SubNet,
    *,
    choices: tuple[Action, ...] = CHOICES,
    every: int = 1,
) -> Iterator[SuperNet]:
    """While open, the denoiser's blocks are gated; on leaving, the denoiser is as it was.

    Meanwhile neither its weights nor the decoder's collect gradients.

    Args:
        pipeline: with its weights loaded.
        full: the SubNet that runs everything: it says blocks, sampler, guidance.
        choices: what a block may do; RUN and REUSE, and DELTA if wanted.
        every: of checkpointing. 0 keeps all activations for the way back. With n > 0 none is kept:
            caches are kept at every n-th step, and what lies between is computed again.
    """
    net = SuperNet(pipeline, full, choices, every)
    denoiser = pipeline.denoiser
    with ExitStack() as stack:
        for parameter in (*denoiser.parameters(), *pipeline.pipe.vae.parameters()):
            if parameter.requires_grad:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
        for block, name in enumerate(full.topology.blocks):
            module = denoiser.get_submodule(name)
            stack.enter_context(forward_replaced(module, net.gated(block, module.forward)))
        yield net


class SuperNet:
    """Runs the gated denoiser over all steps; see `supernet`, which makes it.

    Attributes:
        choices: the meaning of the gates' last axis.
        allowed: which choices each block has, `[N, A]` bool; DELTA needs one tensor in and out of
            equal shape.
    """

    def __init__(
        self, pipeline: Pipeline, full: SubNet, choices: tuple[Action, ...], every: int
    ) -> None:
        if choices not in (CHOICES, CHOICES_WITH_DELTA):
            msg = (
                f"the SuperNet has gates for RUN, REUSE and DELTA in this order, not for {choices}"
            )
            raise SearchError(msg)
        self.pipeline, self.full, self.choices, self.every = pipeline, full, choices, every
        self.topology = full.topology
        self.table: SamplerTable = pipeline.sampler(full.binding.inference_steps)
        self._now: _Step | None = None
        self._templates: dict[int, _Template] = {}
        names = full.topology.blocks
        self._inside = [
            [i for i, other in enumerate(names) if other.startswith(f"{name}.")] for name in names
        ]
        self.allowed = torch.ones(len(names), len(choices), dtype=torch.bool)
        if Action.DELTA in choices:
            able = _delta_blocks(pipeline, full)
            self.allowed[:, _DELTA] = torch.tensor([name in able for name in names])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the gates: steps, blocks, choices."""
        return self.full.steps, len(self.topology.blocks), len(self.choices)

    def case(self, prompts: Sequence[str], noise: Tensor, *, negative: str = "") -> Case:
        """Ask for one picture per prompt, from `noise` `[B, C, H, W]` of unit variance."""
        shape, binding = noise.shape[2:], self.full.binding
        if (len(prompts), *binding.latent_shape) != noise.shape:
            msg = (
                f"the noise has shape {tuple(noise.shape)}, but {len(prompts)} prompts of this "
                f"SubNet need {(len(prompts), *binding.latent_shape)}; give one noise per prompt"
            )
            raise SearchError(msg)
        scale = getattr(self.pipeline.pipe, "vae_scale_factor", 1)
        request = Request(
            prompts=tuple(prompts),
            steps=binding.inference_steps,
            guidance=self.full.guidance,
            negative=negative,
            latents=noise.to(self.pipeline.denoiser.dtype),
            height=shape[0] * scale,
            width=shape[1] * scale,
        )
        return Case(record_call(self.pipeline, request), noise)

    def full_gates(self) -> Tensor:
        """Gates of a SuperNet that runs everything, `[T, N, A]`."""
        gates = torch.zeros(self.shape)
        gates[..., _RUN] = 1
        return gates

    def run(self, gates: Tensor, case: Case) -> Trajectory:
        """Sample with `gates` `[T, N, A]`; those of step 0 are ignored, it runs everything."""
        self._check(gates)
        chain = _Chain(self, case, cast("list[list[list[float]]]", gates.detach().tolist()))
        differentiable = gates.requires_grad and torch.is_grad_enabled()
        if self.every and differentiable:
            predictions = cast("Tensor", _Checkpointed.apply(gates, chain))  # type: ignore[no-untyped-call]
        else:
            with torch.set_grad_enabled(differentiable):
                predictions = torch.stack(chain.predictions(gates))
        rows = np.vstack([self.table.inputs, self.table.final])
        coefficients = torch.tensor(rows, dtype=case.noise.dtype, device=case.noise.device)
        values = torch.cat([case.noise[None], predictions])
        return Trajectory(predictions, torch.tensordot(coefficients, values, 1))

    def _check(self, gates: Tensor) -> None:
        if gates.shape != self.shape:
            msg = (
                f"the gates have shape {tuple(gates.shape)}, but steps, blocks and choices are "
                f"{self.shape}; give one gate for each"
            )
            raise SearchError(msg)
        wrong = (gates.detach()[1:] != 0).any(0).cpu() & ~self.allowed
        if wrong.any():
            names = sorted(
                {self.topology.blocks[block] for block in wrong.any(1).nonzero().flatten().tolist()}
            )
            msg = (
                f"the gates give {Action.DELTA} to {names}, but that needs one tensor in and out of "
                f"equal shape; give {Action.RUN} or {Action.REUSE}"
            )
            raise SearchError(msg)

    def call(self, number: int, sample: Tensor, case: Case, now: _Step) -> tuple[Tensor, _Carry]:
        """One call of the denoiser, gated by `now`: the prediction `[B, C, H, W]`, the next carry."""
        family, call, full = self.pipeline.family, case.call, self.full
        latents = sample.to(call.sample.dtype)
        arguments = dict(call.arguments)
        arguments[family.sample] = torch.cat([latents] * 2) if full.binding.guided else latents
        arguments[family.timestep] = torch.full_like(call.timestep, full.binding.timesteps[number])
        guidance = latents.new_tensor(full.guidance) if full.binding.guided else None
        self._now = now
        try:
            raw = self.pipeline.denoiser(**arguments)[0]
        finally:
            self._now = None
        prediction = family.predict(raw, latents.shape[1], guidance)
        return prediction.to(sample.dtype), now.carry(len(self.topology.ports))

    def gated(self, block: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a block, gated while a step is in progress and as it was otherwise."""
        ports = {self.topology.ports[port].index: port for port in self.topology.ports_of[block]}
        has_delta = Action.DELTA in self.choices and bool(self.allowed[block, _DELTA])

        def run(*args: Any, **kwargs: Any) -> Any:
            now = self._now
            if now is None:
                return forward(*args, **kwargs)
            entered = tensors_of((args, kwargs))[0] if has_delta else None
            fresh: dict[int, Tensor] = {}
            if self._is_idle(now, block):
                template = self._templates[block]
            else:
                with torch.set_grad_enabled(self._is_felt(now, block)):
                    output = forward(*args, **kwargs)
                template = _Template.of(output, ports)
                tensors = tensors_of(output)
                fresh = {port: tensors[index] for index, port in ports.items()}
                if template.is_complete:
                    self._templates[block] = template
            for port in ports.values():
                now.emit(block, port, fresh.get(port), entered)
            return template.filled(now.outputs)

        return run

    def _is_idle(self, now: _Step, block: int) -> bool:
        """Whether neither the block's result nor a gradient to its gates is wanted."""
        if not now.gates or torch.is_grad_enabled() or block not in self._templates:
            return False
        held = all(now.weights[i][_REUSE] == 1 for i in self._inside[block])
        return now.weights[block][_RUN] == 0 and held

    def _is_felt(self, now: _Step, block: int) -> bool:
        """Whether a gradient may go through the block; gates inside it always may be felt."""
        weightless = now.gates and now.weights[block][_RUN] == 0 and not self._inside[block]
        return torch.is_grad_enabled() and not weightless


class _Chain:
    """The calls of one run, one after the other; `weights` are the values of its gates."""

    def __init__(self, net: SuperNet, case: Case, weights: list[list[list[float]]]) -> None:
        self.net, self.case, self.weights = net, case, weights
        self.rows: list[list[float]] = net.table.inputs.tolist()

    def sample(self, number: int, predictions: Sequence[Tensor]) -> Tensor:
        """The denoiser's input at a step, `[B, C, H, W]`, given the predictions before it."""
        row = self.rows[number]
        latents = row[0] * self.case.noise
        for coefficient, prediction in zip(row[1:], predictions[:number], strict=False):
            if coefficient:
                latents = latents + coefficient * prediction
        return latents

    def call(
        self, number: int, sample: Tensor, gates: Tensor, carry: _Carry
    ) -> tuple[Tensor, _Carry]:
        """The prediction of a step, and what it hands on; `gates` are its own, `[N, A]`."""
        rows = gates.unbind() if number else ()
        return self.net.call(number, sample, self.case, _Step(rows, self.weights[number], carry))

    def predictions(self, gates: Tensor, keep: dict[int, _Carry] | None = None) -> list[Tensor]:
        """Of all steps; `keep` is filled with what came into every `net.every`-th step."""
        found: list[Tensor] = []
        carry = _Carry()
        for number in range(len(self.rows)):
            if keep is not None and number % self.net.every == 0:
                keep[number] = carry
            sample = self.sample(number, found)
            prediction, carry = self.call(number, sample, gates[number], carry)
            found.append(prediction)
        return found


class _Checkpointed(torch.autograd.Function):
    """All predictions of a chain, step by step again on the way back."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, chain: _Chain) -> Tensor:
        """Gates `[T, N, A]` -> predictions `[T, B, C, H, W]`."""
        ctx.chain, ctx.came = chain, {}
        found = chain.predictions(gates, ctx.came)
        predictions = torch.stack(found)
        ctx.save_for_backward(gates, predictions)
        return predictions

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, None]:
        """The gradient of the predictions -> that of the gates."""
        gates, stacked = ctx.saved_tensors
        chain: _Chain = ctx.chain
        predictions = stacked.unbind()
        back = _WayBack(chain, gates, predictions, wanted)
        every, steps = chain.net.every, len(chain.rows)
        for start in reversed(range(0, steps, every)):
            came = [ctx.came.pop(start)]
            for number in range(start, min(start + every, steps) - 1):
                sample = chain.sample(number, predictions)
                came.append(chain.call(number, sample, gates[number], came[-1])[1])
            for number in reversed(range(start, start + len(came))):
                back.through(number, came.pop())
        return back.gates, None


class _WayBack:
    """Gradients on their way from the last step to the first."""

    def __init__(
        self, chain: _Chain, gates: Tensor, predictions: Sequence[Tensor], wanted: Tensor
    ) -> None:
        self.chain, self.values, self.found = chain, gates, predictions
        self.gates = torch.zeros_like(gates)
        self.predictions = list(wanted.clone().unbind())
        self.carried: list[Tensor | None] = []

    def through(self, number: int, came: _Carry) -> None:
        """Compute a step again and take the gradients from what it gave to what it got."""
        if number == 0:
            return
        chain = self.chain
        sample = chain.sample(number, self.found).requires_grad_()
        gates = self.values[number].detach().requires_grad_()
        inputs = [tensor.detach().requires_grad_() for tensor in came.tensors]
        with torch.enable_grad():
            prediction, gone = chain.call(number, sample, gates, came.with_tensors(inputs))
        carried = self.carried or [None] * len(inputs)
        results = zip(
            [prediction, *gone.tensors], [self.predictions[number], *carried], strict=True
        )
        felt = [(r, wanted) for r, wanted in results if wanted is not None and r.requires_grad]
        found = torch.autograd.grad(
            [result for result, _ in felt],
            [sample, gates, *inputs],
            [wanted for _, wanted in felt],
            allow_unused=True,
        )
        of_sample, of_gates = found[:2]
        self.carried = list(found[2:])
        if of_gates is not None:
            self.gates[number] = of_gates
        if of_sample is not None:
            for earlier, coefficient in enumerate(chain.rows[number][1 : 1 + number]):
                self.predictions[earlier] += coefficient * of_sample


class _Mix(torch.autograd.Function):
    """Tensors weighed by gates. A gate of 1 alone hands its tensor on; one of 0 stops gradients."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weights: Sequence[float], *options: Tensor) -> Tensor:
        """Gates `[A]`, their values, and up to A tensors of one shape."""
        ctx.save_for_backward(*options)
        ctx.weights, ctx.gates = weights, (gates.shape, gates.dtype, gates.device)
        return _weighed(weights, options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        """Each gate has the product of its tensor with the gradient."""
        options = ctx.saved_tensors
        shape, dtype, device = ctx.gates
        gates = torch.zeros(shape, dtype=dtype, device=device)
        for i, option in enumerate(options):
            gates[i] = (wanted.to(dtype) * option.to(dtype)).sum()
        passed = [w * wanted if w else None for w in ctx.weights[: len(options)]]
        return gates, None, *passed


def _mix(gates: Tensor, weights: Sequence[float], options: Sequence[Tensor | None]) -> Tensor:
    """Options weighed by gates; differentiable only where gradients are on.

    An option may be None where its weight is 0 and gradients are off.
    """
    if torch.is_grad_enabled():
        return cast("Tensor", _Mix.apply(gates, weights, *options))  # type: ignore[no-untyped-call]
    return _weighed(weights, options)


def _weighed(weights: Sequence[float], options: Sequence[Tensor | None]) -> Tensor:
    pairs = [(w, o) for w, o in zip(weights, options, strict=False) if w and o is not None]
    if len(pairs) == 1 and pairs[0][0] == 1:
        return pairs[0][1]
    if not pairs:
        return torch.zeros_like(next(o for o in options if o is not None))
    total = pairs[0][0] * pairs[0][1]
    for weight, option in pairs[1:]:
        total = total + weight * option
    return total


def _delta_blocks(pipeline: Pipeline, full: SubNet) -> set[str]:
    """Blocks with one tensor in and out of equal shape, seen in one call of the denoiser."""
    shape = full.binding.latent_shape
    scale = getattr(pipeline.pipe, "vae_scale_factor", 1)
    request = Request(
        prompts=(pipeline.family.default_prompt,),
        steps=full.binding.inference_steps,
        guidance=full.guidance,
        height=shape[1] * scale,
        width=shape[2] * scale,
        latents=torch.zeros(1, *shape, dtype=pipeline.denoiser.dtype),
    )
    call = record_call(pipeline, request)
    arguments = dict(call.arguments)
    arguments[pipeline.family.sample] = call.sample
    arguments[pipeline.family.timestep] = call.timestep
    topology, able = full.topology, set[str]()

    def look(name: str, block: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del module
            entered, left = tensors_of((args, kwargs))[0], tensors_of(output)
            if len(left) == len(topology.ports_of[block]) == 1 and left[0].shape == entered.shape:
                able.add(name)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for block, name in enumerate(topology.blocks):
            module = pipeline.denoiser.get_submodule(name)
            handle = module.register_forward_hook(look(name, block), with_kwargs=True)
            stack.callback(handle.remove)
        pipeline.denoiser(**arguments)
    return able
