"""One torch.export trace of a loop's body without weights, and the topology read off it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from search.core.errors import SearchError
from search.core.names import GUIDANCE, SAMPLE, TIMESTEP
from search.core.streams import block_name, stream_names
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
from search.model.body import Body
from search.model.complex_numbers import without_complex
from search.model.cost import attention_products, count_macs
from search.model.hollow import hollow, tensors_of
from search.model.removed import (
    build_denoiser,
    is_removed,
    shortcut_of,
    tensor_arguments,
)

LONGER = "a longer text, to see whether its length counts"
"""What is added to a prompt."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from torch.export import ExportedProgram
    from torch.fx import Node

    from search.model.family import Family, Request
    from search.model.pipeline import Pipeline


@dataclass(frozen=True)
class Trace:
    """The body of a pipeline's loop, traced.

    Attributes:
        program: its inputs are `sample` `[B, ...]`, `timestep` `[]`, the conditions and
            `guidance_scale` `[]`. Its first output is the prediction `[B, ...]`; blocks' tensors and
            their bases follow.
        inputs: names of the program's inputs, in order.
        topology: what the program says about the blocks.
        port_outputs: per port of the topology, which output of the program it is.
        base_outputs: likewise, per port that has a base other than zeros.
        body: that was traced.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    topology: Topology
    port_outputs: tuple[int, ...]
    base_outputs: dict[int, int]
    body: Body

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one image, as the loop has it; `[C, H, W]`, or as the pipeline packs it."""
        return self.body.latent_shape

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the noise drawn for one image, `[C, H, W]`."""
        return self.body.drawn[1:]


def trace(
    pipeline: Pipeline,
    granularity: Granularity,
    request: Request,
    dtype: torch.dtype = torch.float32,
) -> Trace:
    """Trace the body of the loop of diffusers' pipeline for `request`.

    The weights are never touched: a copy of the denoiser is built from its configuration. Sample,
    prediction, timestep and guidance are float32 whatever the `dtype` of weights, conditions and blocks.
    """
    body = Body(pipeline, request)
    _require_one_way(pipeline, request, body)
    family = pipeline.family
    denoiser = hollow(_built(pipeline), dtype)
    names = _block_names(family, denoiser, granularity, pipeline.removed)
    outputs: dict[_Output, int] = {}
    parts = {name: hollow(part, dtype) for name, part in body.parts_around.items()}
    step = _Step(body, denoiser, parts, names, outputs, dtype)
    inputs = {
        SAMPLE: torch.zeros(body.pictures, *body.latent_shape),
        TIMESTEP: torch.ones(()),
        **{
            name: torch.zeros(t.shape, dtype=dtype if t.is_floating_point() else t.dtype)
            for name, t in body.conditions.items()
        },
        GUIDANCE: torch.ones(()),
    }
    with torch.no_grad():
        program = without_aliases(torch.export.export(step, (), inputs, strict=False))
    program = without_complex(program, inputs)
    modules = {name for each in Granularity for name in family.blocks(denoiser, each)}
    branches = {name for name in modules if family.is_branch(denoiser.get_submodule(name))}
    graph = _Graph(program, tuple(inputs))
    emitted = _emitted(graph, outputs, _in_streams(body, branches))
    units = _in_streams(body, modules)
    topology = _read_topology(program, graph, emitted, units, body)
    return Trace(
        program=program,
        inputs=tuple(inputs),
        topology=topology,
        port_outputs=tuple(emitted.ports.values()),
        base_outputs=emitted.outputs,
        body=body,
    )


def _require_one_way(pipeline: Pipeline, request: Request, body: Body) -> None:
    """Refuse a step that depends on the length of its text, which a trace would freeze."""
    if not body.numbers or pipeline.family.labels(pipeline.pipe, request) is not None:
        return
    longer = replace(request, prompts=tuple(f"{p} {LONGER}" for p in request.prompts))
    if Body(pipeline, longer).numbers != body.numbers:
        msg = (
            f"the {type(pipeline.denoiser).__name__} of a {pipeline.family.pipeline} computes otherwise "
            "for texts of another length; a graph is of one length, so such pipelines are not supported"
        )
        raise SearchError(msg)


def without_aliases(program: ExportedProgram) -> ExportedProgram:
    """The program with what its outputs are aliases of in their place."""
    output = program.graph.output_node()
    specs = program.graph_signature.output_specs
    results = list(output.args[0])
    for place, node in enumerate(results):
        if node.target is torch.ops.aten.alias.default:
            results[place] = node.args[0]
            specs[place].arg = TensorArgument(name=node.args[0].name)
    output.args = (tuple(results),)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _built(pipeline: Pipeline) -> nn.Module:
    """The denoiser of a pipeline without any weights."""
    if any(p.is_meta for p in pipeline.denoiser.parameters()):
        return cast("nn.Module", pipeline.denoiser)
    cls, config = type(pipeline.denoiser), pipeline.denoiser.config
    with init_empty_weights(include_buffers=False):
        return build_denoiser(cls, config, pipeline.family)


def _block_names(
    family: Family, denoiser: nn.Module, granularity: Granularity, removed: Iterable[str]
) -> list[str]:
    """The modules that are blocks."""
    return list(dict.fromkeys([*family.blocks(denoiser, granularity), *removed]))


def _in_streams(body: Body, modules: Iterable[str]) -> set[str]:
    """These modules as blocks, in every stream."""
    streams = stream_names(len(body.uses))
    return {block_name(stream, module) for stream in streams for module in modules}


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
    """A body that also returns what the blocks emit and are given.

    A call fills `found` with the number of the output that each of these is.
    """

    def __init__(
        self,
        body: Body,
        denoiser: nn.Module,
        parts: dict[str, nn.Module],
        modules: list[str],
        found: dict[_Output, int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.parts = nn.ModuleDict(parts)
        # In functions, because export undoes what a module writes to its own attributes.
        self.body, self.report = body.__call__, found.update
        self.watch: Callable[[], _Watch] = lambda: _Watch(
            denoiser, list(parts.values()), modules, stream_names(len(body.uses)), dtype
        )

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the prediction and every distinct tensor that a block emits or is given."""
        given = dict(inputs)
        sample, timestep, guidance = (given.pop(name) for name in (SAMPLE, TIMESTEP, GUIDANCE))
        with self.watch() as watch:
            prediction = self.body(
                sample,
                timestep,
                guidance=guidance,
                conditions=given,
                denoiser=self.denoiser,
                parts=dict(self.parts.items()),
            ).to(sample.dtype)
        # Two blocks may hand on the same tensor; it belongs to the one that made it.
        distinct: dict[int, Tensor] = {}
        found: dict[_Output, int] = {}
        for name, tensors in watch.emitted.items():
            for index, tensor in enumerate(tensors):
                if id(tensor) not in distinct:
                    distinct[id(tensor)] = tensor
                    found[_Output(name, index)] = len(distinct)
        for name, tensors in watch.given.items():
            shapes = {tensor.shape for tensor in watch.emitted[name]}
            for index, tensor in enumerate(tensors):
                if tensor.shape not in shapes:
                    continue
                distinct.setdefault(id(tensor), tensor)
                place = 1 + list(distinct).index(id(tensor))
                found[_Output(name, index, is_given=True)] = place
        self.report(found)
        return prediction, *(watch.held[each] for each in distinct)


class _Watch(ExitStack):
    """While open, keeps what blocks emit, and those of their arguments that they could hand on.

    It also lets the denoiser and the parts around it compute in their own dtype: arguments are cast to
    it, and the output back.
    A vector, such as the timestep, stays as it is.

    Attributes:
        emitted: the tensors by block, in order of execution.
        given: likewise.
        held: per tensor's id, an alias of it. An operation that changes nothing, such as a cast to its
            own dtype, gives back the tensor itself as its result; of the alias nobody makes anything.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        parts: list[nn.Module],
        modules: list[str],
        streams: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.emitted: dict[str, list[Tensor]] = {}
        self.given: dict[str, list[Tensor]] = {}
        self.held: dict[int, Tensor] = {}
        self._tensors: list[Tensor] = []
        self._streams, self._dtype, self._call = streams, dtype, -1
        enter = denoiser.register_forward_pre_hook(self._enter, with_kwargs=True)
        leave = denoiser.register_forward_hook(self._leave)
        self.callback(enter.remove)
        watched = {name: denoiser.get_submodule(name) for name in modules}
        if len(streams) > 1:
            watched[""] = denoiser
        for name, module in watched.items():
            self._watch(name, module)
        self.callback(leave.remove)
        for part in parts:
            self.callback(part.register_forward_pre_hook(self._given, with_kwargs=True).remove)
            self.callback(part.register_forward_hook(self._leave).remove)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._call += 1
        return self._given(module, args, kwargs)

    def _given(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        del module
        return pytree.tree_map_only(Tensor, self._cast, (args, kwargs))

    def _cast(self, tensor: Tensor) -> Tensor:
        is_value = tensor.is_floating_point() and tensor.ndim > 1
        return tensor.to(self._dtype) if is_value else tensor

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        return pytree.tree_map_only(
            Tensor, lambda t: t.to(torch.float32) if t.is_floating_point() else t, output
        )

    def _hold(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            if id(tensor) not in self.held:
                self.held[id(tensor)] = torch.ops.aten.alias.default(tensor)
                self._tensors.append(tensor)

    def _watch(self, name: str, module: nn.Module) -> None:
        shortcut = shortcut_of(module)

        def keep_shortcut(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            self.given[block_name(self._streams[self._call], name)][0] = output
            self._hold([output])

        def keep_given(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = tensor_arguments(module, args, kwargs)
            self.given[block_name(self._streams[self._call], name)] = given
            self._hold(given)

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            del args, kwargs
            block = block_name(self._streams[self._call], name)
            self.emitted[block] = tensors_of(output)
            self._hold(self.emitted[block])
            if not is_removed(module):
                return None
            # What a block around it hands on is that block's own.
            return pytree.tree_map_only(Tensor, lambda tensor: tensor.view_as(tensor), output)

        self.callback(module.register_forward_pre_hook(keep_given, with_kwargs=True).remove)
        self.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
        if shortcut is not None:
            self.callback(shortcut.register_forward_hook(keep_shortcut).remove)


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
    body: Body,
) -> Topology:
    streams = stream_names(len(body.uses))
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
        segments=_segments(program, graph, members, _Units(units, owners, streams), body.rows),
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

    def __init__(
        self, units: set[str], owners: Mapping[Target, str], streams: Sequence[str]
    ) -> None:
        self._units, self._owners, self._streams = units, owners, streams

    def of(self, nodes: Iterable[Node], targets: frozenset[Target]) -> frozenset[str]:
        """The units around `nodes`; a block need not run for the sake of its own base."""
        for_base = {self._owners[target] for target in targets & self._owners.keys()}
        around = {u for node in nodes for u in _modules(node, self._streams)}
        return frozenset(around & self._units) - for_base


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


def _modules(node: Node, streams: Sequence[str]) -> Iterable[str]:
    """Names of the denoiser's modules around a node, with their stream, outermost first."""
    stream = streams[0]
    for key, (name, _) in node.meta.get("nn_module_stack", {}).items():
        if name == "denoiser":
            # Later calls of a module are numbered behind an @.
            stream = streams[int(key.rpartition("@")[2])] if "@" in key else streams[0]
        elif name.startswith("denoiser."):
            yield block_name(stream, name.removeprefix("denoiser."))
