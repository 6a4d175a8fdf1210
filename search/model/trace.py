"""One torch.export trace of the denoiser on fake tensors, and the topology read off it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.subnet import Granularity
from search.core.topology import (
    PREDICTION,
    Base,
    Computation,
    Port,
    Segment,
    Target,
    Topology,
    base_of,
    port_of,
)
from search.model.additive import added_to
from search.model.cost import attention_products, count_macs
from search.model.recording import DenoiserCall, path_name, record_call
from search.model.removed import (
    build_denoiser,
    is_removed,
    removed_of,
    shortcut_of,
    tensor_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from torch.export import ExportedProgram
    from torch.fx import Node
    from torch.utils.hooks import RemovableHandle

    from search.model.family import Family, Request
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Trace:
    """The denoiser with guidance, traced.

    Attributes:
        program: exported on fake tensors. Its inputs are `sample` `[B, C, H, W]`, `timestep` `[]`,
            the conditions and, with guidance, `guidance_scale` `[]`. Its first output is the noise
            prediction `[B, C, H, W]`; blocks' tensors and their bases follow.
        inputs: names of the program's inputs, in order.
        topology: what the program says about the blocks.
        port_outputs: per port of the topology, which output of the program it is.
        base_outputs: likewise, per port that has a base other than zeros.
        latent_shape: of one image; `[C, H, W]`, or as the pipeline packs it.
        noise_shape: of the noise drawn for one image, `[C, H, W]`.
        layout: per element of a batch of latents, which element of the drawn noise it is; None: its
            own.
        guided: whether the denoiser is called with two halves.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    topology: Topology
    port_outputs: tuple[int, ...]
    base_outputs: dict[int, int]
    latent_shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    layout: tuple[int, ...] | None
    guided: bool


def trace(
    pipeline: Pipeline,
    granularity: Granularity,
    request: Request,
    dtype: torch.dtype = torch.float32,
) -> Trace:
    """Trace the denoiser as diffusers' pipeline calls it for `request`.

    The weights are never touched: a fake copy of the denoiser is built from its configuration. Sample,
    prediction, timestep and guidance are float32 whatever the `dtype` of weights, conditions and blocks.
    """
    call = record_call(pipeline, request)
    samples, *latent_shape = call.sample.shape
    family = pipeline.family
    with FakeTensorMode(), torch.no_grad():
        config = pipeline.denoiser.config
        denoiser = build_denoiser(type(pipeline.denoiser), config, family)
        convert_denoiser(denoiser, dtype)
        blocks = list(dict.fromkeys([*family.blocks(denoiser, granularity), *removed_of(config)]))
        outputs: dict[_Output, int] = {}
        step = _Step(denoiser, family, call, blocks, outputs, dtype)
        inputs = {
            SAMPLE: torch.empty(samples // (2 if call.guided else 1), *latent_shape),
            TIMESTEP: torch.empty(()),
            **{
                name: torch.empty(t.shape, dtype=dtype if t.is_floating_point() else t.dtype)
                for name, t in call.conditions.items()
            },
            **({GUIDANCE: torch.empty(())} if call.guided else {}),
        }
        program = torch.export.export(step, (), inputs, strict=False)
        units = {name for each in Granularity for name in family.blocks(denoiser, each)}
        branches = {name for name in units if family.is_branch(denoiser.get_submodule(name))}
    graph = _Graph(program, tuple(inputs))
    emitted = _emitted(graph, outputs, branches)
    topology = _read_topology(program, graph, emitted, units, samples)
    return Trace(
        program=program,
        inputs=tuple(inputs),
        topology=topology,
        port_outputs=tuple(emitted.ports.values()),
        base_outputs=emitted.outputs,
        latent_shape=tuple(latent_shape),
        noise_shape=(call.drawn or ())[1:],
        layout=call.layout(),
        guided=call.guided,
    )


def convert_denoiser(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Give the denoiser `dtype`, but for the modules that its class keeps in float32."""
    for module in convertible_modules(denoiser):
        for key, tensor in module.named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(tensor.detach().to(dtype), requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, key, buffer.to(dtype))


def convertible_modules(denoiser: nn.Module) -> list[nn.Module]:
    """The modules of a denoiser that its class does not keep in float32."""
    kept = set(getattr(denoiser, "_keep_in_fp32_modules", None) or ())
    return [module for name, module in denoiser.named_modules() if not kept & set(name.split("."))]


class _Output(NamedTuple):
    """An extra output of the trace: a tensor that a block emits, or one that it is given.

    Attributes:
        block: name of the block.
        tensor: index among the tensors that it emits, or among its tensor arguments.
        is_given: whether it is an argument; what the block's shortcut convolution makes of its first
            argument stands in the place of that.
    """

    block: str
    tensor: int
    is_given: bool = False


class _Step(nn.Module):
    """The denoiser with guidance around it; also returns what the blocks emit and are given.

    A call fills `found` with the number of the output that each of these is.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        family: Family,
        call: DenoiserCall,
        blocks: list[str],
        found: dict[_Output, int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.denoiser, self.family, self.call, self.blocks = denoiser, family, call, blocks
        # In a function, because export undoes what a module writes to its own attributes.
        self.report = found.update

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the noise prediction and every distinct tensor that a block emits or is given."""
        guidance = inputs.get(GUIDANCE)
        sample = inputs[SAMPLE]
        arguments = pytree.tree_map_with_path(
            lambda path, leaf: inputs.get(path_name(path), leaf), self.call.arguments
        )
        batch = sample if guidance is None else torch.cat([sample, sample])
        arguments[self.family.sample] = batch.to(self.dtype)
        arguments[self.family.timestep] = self.call.model_timestep(inputs[TIMESTEP])
        emitted: dict[str, list[Tensor]] = {}
        given: dict[str, list[Tensor]] = {}
        with ExitStack() as stack:
            for name in self.blocks:
                for handle in _watch(self.denoiser.get_submodule(name), name, emitted, given):
                    stack.callback(handle.remove)
            raw = self.denoiser(**arguments)[0]
        prediction = self.family.predict(raw.to(sample.dtype), sample.shape[1], guidance)
        # Two blocks may hand on the same tensor; it belongs to the one that made it.
        distinct: dict[int, Tensor] = {}
        found: dict[_Output, int] = {}
        for name, tensors in emitted.items():
            for index, tensor in enumerate(tensors):
                if id(tensor) not in distinct:
                    distinct[id(tensor)] = tensor
                    found[_Output(name, index)] = len(distinct)
        for name, tensors in given.items():
            shapes = {tensor.shape for tensor in emitted[name]}
            for index, tensor in enumerate(tensors):
                if tensor.shape not in shapes:
                    continue
                distinct.setdefault(id(tensor), tensor)
                place = 1 + list(distinct).index(id(tensor))
                found[_Output(name, index, is_given=True)] = place
        self.report(found)
        return prediction, *distinct.values()


def _watch(
    module: nn.Module, name: str, emitted: dict[str, list[Tensor]], given: dict[str, list[Tensor]]
) -> Iterator[RemovableHandle]:
    """Keep what the block emits, and those of its arguments that it could hand on."""
    shortcut = shortcut_of(module)
    through: list[Tensor] = []

    def keep_shortcut(module: nn.Module, args: Any, output: Tensor) -> None:
        del module, args
        through[:] = [output]

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        emitted[name] = tensors_of(output)
        given[name] = [*through, *tensor_arguments(module, args, kwargs)[len(through) :]]
        if not is_removed(module):
            return None
        # What a block around it hands on is that block's own.
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.view_as(tensor), output)

    yield module.register_forward_hook(keep, with_kwargs=True)
    if shortcut is not None:
        yield shortcut.register_forward_hook(keep_shortcut)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a block returns, in a fixed order: the ports of the block."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class _Emitted:
    """Which outputs of the program matter.

    Attributes:
        ports: those that the noise prediction depends on, in order of computation.
        bases: by port, for those that have one.
        outputs: by port, which output of the program the base is, unless it is zeros.
    """

    ports: dict[_Output, int]
    bases: dict[int, Base]
    outputs: dict[int, int]


def _emitted(graph: _Graph, outputs: Mapping[_Output, int], branches: AbstractSet[str]) -> _Emitted:
    position = {node: i for i, node in enumerate(graph.nodes)}
    used = graph.ancestors(graph.outputs[0])

    def place(output: _Output) -> int:
        return position[graph.outputs[outputs[output]]]

    is_port = {o for o, i in outputs.items() if not o.is_given and graph.outputs[i] in used}
    ports = {o: outputs[o] for o in sorted(is_port, key=place)}
    port_at = {graph.outputs[i]: port for port, i in enumerate(ports.values())}
    bases: dict[int, Base] = {}
    found: dict[int, int] = {}
    for port, output in enumerate(ports):
        if output.block in branches:
            bases[port] = Base(None)
            continue
        argument = _handed_on(graph, output, outputs, used)
        if argument is not None:
            found[port] = outputs[argument]
            bases[port] = Base(argument.tensor, port_at.get(graph.outputs[found[port]]))
    return _Emitted(ports, bases, found)


def _handed_on(
    graph: _Graph, output: _Output, outputs: Mapping[_Output, int], used: AbstractSet[Node]
) -> _Output | None:
    """The argument that a block would hand on as `output` if it did nothing; None if there is none.

    One of the output's shape. Where several have it, or the block emits several tensors, the one to
    which the block only adds; in a block of one tensor it is the first.
    """
    made = graph.outputs[outputs[output]]
    alone = sum(o.block == output.block and not o.is_given for o in outputs) == 1
    given = {
        o: graph.outputs[i] for o, i in outputs.items() if o.block == output.block and o.is_given
    }
    fitting = {
        o: node
        for o, node in given.items()
        if node is not made and node in used and node.meta["val"].shape == made.meta["val"].shape
    }
    if alone:
        return next((o for o in fitting if o.tensor == 0), None)
    summands = added_to(made, fitting.values())
    added = [o for o, node in fitting.items() if node in summands]
    return added[0] if len(added) == 1 else None


def _read_topology(
    program: ExportedProgram,
    graph: _Graph,
    emitted: _Emitted,
    units: set[str],
    samples: int,
) -> Topology:
    last_port = {output.block: port for port, output in enumerate(emitted.ports)}
    blocks = sorted(last_port, key=last_port.__getitem__)
    ports = {graph.outputs[i]: port for port, i in enumerate(emitted.ports.values())}
    based: defaultdict[Node, list[int]] = defaultdict(list)
    for port, output in emitted.outputs.items():
        based[graph.outputs[output]].append(port)
    members = graph.members(ports, based)
    targets = [*map(port_of, range(len(ports))), PREDICTION, *map(base_of, emitted.bases)]
    owners = {base_of(port): output.block for port, output in enumerate(emitted.ports)}
    return Topology(
        blocks=tuple(blocks),
        ports=tuple(
            Port(blocks.index(output.block), output.tensor, tuple(node.meta["val"].shape))
            for output, node in zip(emitted.ports, ports, strict=True)
        ),
        computations=_computations(graph, targets, ports, based, members),
        segments=_segments(program, graph, members, _Units(units, owners), samples),
        bases=emitted.bases,
    )


def _computations(
    graph: _Graph,
    targets: Iterable[Target],
    ports: Mapping[Node, int],
    based: Mapping[Node, list[int]],
    members: Mapping[Node, frozenset[Target]],
) -> dict[Target, Computation]:
    """Per target, the ports it is computed from, and whether from latents or timestep."""
    reads: dict[Target, set[int]] = {target: set() for target in targets}
    for node, port in ports.items():
        for user in node.users:
            for target in members.get(user, ()):
                reads[target].add(port)
        for each in based.get(node, ()):
            reads[base_of(each)].add(port)
    varying = {target for node in graph.varying for target in members.get(node, ())}
    return {t: Computation(frozenset(each), t in varying) for t, each in reads.items()}


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

    def members(
        self, ports: Mapping[Node, int], based: Mapping[Node, list[int]]
    ) -> dict[Node, frozenset[Target]]:
        """Per node, the targets whose computation contains it when it stops at `ports`.

        Nodes that no target needs are left out.
        """
        found: dict[Node, frozenset[Target]] = {}
        for node in reversed(self.nodes):
            if node.op == "output":
                continue
            if node in ports:
                found[node] = frozenset({port_of(ports[node])})
                continue
            mine = {PREDICTION} if node is self.outputs[0] else set[Target]()
            mine |= set(map(base_of, based.get(node, ())))
            for user in node.users:
                mine |= found.get(user, frozenset())
            if mine:
                found[node] = frozenset(mine)
        return found

    def ancestors(self, node: Node) -> set[Node]:
        """All nodes that `node` is computed from."""
        pending, seen = [node], {node}
        while pending:
            for before in pending.pop().all_input_nodes:
                if before not in seen:
                    seen.add(before)
                    pending.append(before)
        return seen - {node}


class _Units:
    """Which modules have to run for an operation; `owners` are the blocks of the bases."""

    def __init__(self, units: set[str], owners: Mapping[Target, str]) -> None:
        self._units, self._owners = units, owners

    def of(self, nodes: Iterable[Node], targets: frozenset[Target]) -> frozenset[str]:
        """The units around `nodes`; a block need not run for the sake of its own base."""
        for_base = {self._owners[target] for target in targets & self._owners.keys()}
        return frozenset(u for node in nodes for u in _modules(node) if u in self._units) - for_base


def _segments(
    program: ExportedProgram,
    graph: _Graph,
    members: Mapping[Node, frozenset[Target]],
    units: _Units,
    samples: int,
) -> tuple[Segment, ...]:
    macs = count_macs(program.graph_module)
    attention = attention_products(program)
    grouped: defaultdict[frozenset[Target], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node in members:
            grouped[members[node]].append(node)
    return tuple(
        Segment(
            targets=targets,
            macs=sum(macs[node] for node in nodes) // samples,
            attention=sum(macs[node] for node in nodes if node in attention) // samples,
            params=sum(node.meta["val"].numel() for node in nodes if node in graph.parameters),
            units=units.of(nodes, targets),
        )
        for targets, nodes in grouped.items()
    )


def _modules(node: Node) -> Iterable[str]:
    """Names of the denoiser's modules around a node, outermost first."""
    for name, _ in node.meta.get("nn_module_stack", {}).values():
        yield name.removeprefix("denoiser.")
