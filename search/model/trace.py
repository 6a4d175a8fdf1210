"""One torch.export trace of the denoiser on fake tensors, and the topology read off it."""

from __future__ import annotations

import inspect
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from search.errors import SearchError
from search.model.cost import attention_products, count_macs
from search.names import GUIDANCE, SAMPLE, TIMESTEP
from search.subnet import Granularity
from search.topology import Port, Segment, Topology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.export import ExportedProgram
    from torch.fx import Node

    from search.model.family import Family, Request
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Trace:
    """The denoiser with guidance, traced.

    Attributes:
        program: exported on fake tensors. Its inputs are `sample` `[B, C, H, W]`, `timestep` `[]`,
            the conditions and, with guidance, `guidance_scale` `[]`. Its first output is the noise
            prediction `[B, C, H, W]`; blocks' tensors follow.
        inputs: names of the program's inputs, in order.
        topology: what the program says about the blocks.
        port_outputs: per port of the topology, which output of the program it is.
        latent_shape: `[C, H, W]`.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    topology: Topology
    port_outputs: tuple[int, ...]
    latent_shape: tuple[int, ...]


def trace(pipeline: Pipeline, granularity: Granularity, request: Request) -> Trace:
    """Trace the denoiser as diffusers' pipeline calls it for `request`.

    The weights are never touched: a fake copy of the denoiser is built from its configuration.
    """
    call = record_call(pipeline, request)
    samples, *latent_shape = call.sample.shape
    family = pipeline.family
    with FakeTensorMode(), torch.no_grad():
        denoiser = type(pipeline.denoiser).from_config(pipeline.denoiser.config).eval()
        emitted: dict[tuple[str, int], None] = {}
        step = _Step(denoiser, family, call, family.blocks(denoiser, granularity), emitted)
        inputs = {
            SAMPLE: torch.empty(samples // (2 if request.guided else 1), *latent_shape),
            TIMESTEP: torch.empty(()),
            **{name: torch.empty(t.shape, dtype=t.dtype) for name, t in call.conditions.items()},
            **({GUIDANCE: torch.empty(())} if request.guided else {}),
        }
        program = torch.export.export(step, (), inputs, strict=False)
        units = {name for each in Granularity for name in family.blocks(denoiser, each)}
    topology, port_outputs = _read_topology(program, tuple(inputs), list(emitted), units, samples)
    return Trace(program, tuple(inputs), topology, port_outputs, tuple(latent_shape))


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of one call of the denoiser, as diffusers' pipeline gives them."""

    arguments: dict[str, Any]
    sample: Tensor
    timestep: Tensor
    conditions: dict[str, Tensor]


class _RecordedError(Exception):
    """Ends the pipeline's run once the denoiser's arguments are known."""


def record_call(pipeline: Pipeline, request: Request) -> DenoiserCall:
    """Run diffusers' pipeline up to its first call of the denoiser and keep the arguments."""
    family, denoiser = pipeline.family, pipeline.denoiser
    signature = inspect.signature(denoiser.forward)
    found: dict[str, Any] = {}

    def record(*args: Any, **kwargs: Any) -> None:
        found.update(signature.bind(*args, **kwargs).arguments)
        raise _RecordedError

    try:
        with mock.patch.object(denoiser, "forward", record), torch.no_grad():
            family.call(pipeline.pipe, request, None)
    except _RecordedError:
        pass
    except ValueError as error:
        msg = f"the pipeline refuses these settings: {' '.join(str(error).split())}; choose others"
        raise SearchError(msg) from error
    found.pop("kwargs", None)
    found["return_dict"] = False
    sample, timestep = found.pop(family.sample), found.pop(family.timestep)
    conditions = {
        _name(path): leaf
        for path, leaf in pytree.tree_leaves_with_path(found)
        if isinstance(leaf, Tensor)
    }
    return DenoiserCall(found, sample, timestep, conditions)


class _Step(nn.Module):
    """The denoiser with guidance around it; also returns what the blocks emit.

    A call fills `emitted` with (block, index among its outputs) per extra output.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        family: Family,
        call: DenoiserCall,
        blocks: list[str],
        emitted: dict[tuple[str, int], None],
    ) -> None:
        super().__init__()
        self.denoiser, self.family, self.call, self.blocks = denoiser, family, call, blocks
        # In a function, because export undoes what a module writes to its own attributes.
        self.report = emitted.update

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the noise prediction and every distinct tensor that a block emits."""
        guidance = inputs.get(GUIDANCE)
        sample = inputs[SAMPLE]
        arguments = pytree.tree_map_with_path(
            lambda path, leaf: inputs.get(_name(path), leaf), self.call.arguments
        )
        arguments[self.family.sample] = sample if guidance is None else torch.cat([sample, sample])
        arguments[self.family.timestep] = inputs[TIMESTEP].expand(self.call.timestep.shape)
        outputs: dict[str, list[Tensor]] = {}
        with ExitStack() as stack:
            for name in self.blocks:
                hook = _keep_tensors(outputs, name)
                handle = self.denoiser.get_submodule(name).register_forward_hook(hook)
                stack.callback(handle.remove)
            raw = self.denoiser(**arguments)[0]
        prediction = self.family.predict(raw, sample.shape[1], guidance)
        # Two blocks may hand on the same tensor; it belongs to the one that made it.
        distinct: dict[int, tuple[str, int, Tensor]] = {}
        for name, tensors in outputs.items():
            for index, tensor in enumerate(tensors):
                distinct.setdefault(id(tensor), (name, index, tensor))
        self.report({(name, index): None for name, index, _ in distinct.values()})
        return prediction, *(tensor for _, _, tensor in distinct.values())


def _keep_tensors(outputs: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        outputs[name] = tensors_of(output)

    return hook


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a block returns, in a fixed order: the ports of the block."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _read_topology(
    program: ExportedProgram,
    inputs: tuple[str, ...],
    emitted: list[tuple[str, int]],
    units: set[str],
    samples: int,
) -> tuple[Topology, tuple[int, ...]]:
    """The topology, and per port which output of the program it is."""
    graph = _Graph(program, inputs)
    ports = _reachable_ports(graph, len(emitted))
    members = graph.members({graph.outputs[1 + i]: port for port, i in enumerate(ports)})
    output = len(ports)
    owners = [emitted[i] for i in ports]
    last_port = {name: port for port, (name, _) in enumerate(owners)}
    blocks = sorted(last_port, key=last_port.__getitem__)
    reads: list[set[int]] = [set() for _ in range(output + 1)]
    varies = [False] * (output + 1)
    for port, i in enumerate(ports):
        for user in graph.outputs[1 + i].users:
            for target in members.get(user, ()):
                reads[target].add(port)
    for node in graph.varying:
        for target in members.get(node, ()):
            varies[target] = True
    topology = Topology(
        blocks=tuple(blocks),
        ports=tuple(
            Port(blocks.index(name), index, tuple(graph.outputs[1 + i].meta["val"].shape))
            for i, (name, index) in zip(ports, owners, strict=True)
        ),
        reads=tuple(map(frozenset, reads)),
        varies=tuple(varies),
        segments=_segments(program, graph, members, units, samples),
    )
    return topology, tuple(1 + i for i in ports)


class _Graph:
    """The nodes of an exported program by the role they play here."""

    def __init__(self, program: ExportedProgram, inputs: tuple[str, ...]) -> None:
        self.nodes: list[Node] = list(program.graph.nodes)
        by_name = {node.name: node for node in self.nodes}
        self.outputs = [by_name[spec.arg.name] for spec in program.graph_signature.output_specs]
        users = [by_name[name] for name in program.graph_signature.user_inputs]
        self.varying = [
            node for name, node in zip(inputs, users, strict=True) if name in (SAMPLE, TIMESTEP)
        ]
        self.parameters = {
            by_name[name]: key for name, key in program.graph_signature.inputs_to_parameters.items()
        }

    def members(self, ports: Mapping[Node, int]) -> dict[Node, frozenset[int]]:
        """Per node, the targets whose computation contains it when it stops at `ports`.

        The noise prediction is target `len(ports)`. Nodes that no target needs are left out.
        """
        output = len(ports)
        found: dict[Node, frozenset[int]] = {}
        for node in reversed(self.nodes):
            if node.op == "output":
                continue
            if node in ports:
                found[node] = frozenset({ports[node]})
                continue
            mine = {output} if node is self.outputs[0] else set[int]()
            for user in node.users:
                mine |= found.get(user, frozenset())
            if mine:
                found[node] = frozenset(mine)
        return found


def _reachable_ports(graph: _Graph, count: int) -> list[int]:
    """Which of the emitted tensors the noise prediction depends on, in order of computation."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    pending, seen = [graph.outputs[0]], {graph.outputs[0]}
    while pending:
        for node in pending.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                pending.append(node)
    used = [i for i in range(count) if graph.outputs[1 + i] in seen - {graph.outputs[0]}]
    return sorted(used, key=lambda i: position[graph.outputs[1 + i]])


def _segments(
    program: ExportedProgram,
    graph: _Graph,
    members: Mapping[Node, frozenset[int]],
    units: set[str],
    samples: int,
) -> tuple[Segment, ...]:
    macs = count_macs(program.graph_module)
    attention = attention_products(program)
    grouped: defaultdict[frozenset[int], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node in members:
            grouped[members[node]].append(node)
    return tuple(
        Segment(
            targets=targets,
            macs=sum(macs[node] for node in nodes) // samples,
            attention=sum(macs[node] for node in nodes if node in attention) // samples,
            params=sum(node.meta["val"].numel() for node in nodes if node in graph.parameters),
            units=frozenset(unit for node in nodes for unit in _modules(node) if unit in units),
        )
        for targets, nodes in grouped.items()
    )


def _modules(node: Node) -> Iterable[str]:
    """Names of the denoiser's modules around a node, outermost first."""
    for name, _ in node.meta.get("nn_module_stack", {}).values():
        yield name.removeprefix("denoiser.")
