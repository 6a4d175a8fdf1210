"""The topology, read off the graph of a trace."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from search.core.names import SAMPLE, TIMESTEP
from search.core.streams import block_name
from search.core.topology import (
    Base,
    Computation,
    Port,
    Segment,
    Target,
    Topology,
    base_of,
    port_of,
    prediction_of,
)
from search.model.additive import added_to
from search.model.cost import attention_products, count_macs
from search.model.traced_step import Output

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from torch.export import ExportedProgram
    from torch.fx import Node

    from search.core.groups import Groups


@dataclass(frozen=True)
class Emitted:
    """Which outputs of the program matter.

    Attributes:
        ports: those that the noise prediction depends on, in order of computation.
        bases: by port, for those that have one.
        outputs: by port, which output of the program the base is, unless it is zeros.
    """

    ports: dict[Output, int]
    bases: dict[int, Base]
    outputs: dict[int, int]


def emitted_by(
    graph: TracedGraph,
    outputs: Mapping[Output, int],
    branches: AbstractSet[str],
    first_calls: Mapping[str, str],
) -> Emitted:
    """The outputs that matter: ports that the prediction depends on, and what each has as its base.

    Args:
        graph: of the trace.
        outputs: per tensor that a block emits or is given, which output of the program it is.
        branches: the blocks that are residual branches.
        first_calls: per later call of a step, the first one.
    """
    position = {node: i for i, node in enumerate(graph.nodes)}
    used = {node for each in graph.predictions for node in graph.ancestors(each)}

    def place(output: Output) -> int:
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
        if output.block in first_calls:
            first = Output(first_calls[output.block], output.tensor)
            if first in ports and _is_alike(graph, outputs, first, output):
                found[port] = outputs[first]
                bases[port] = Base(None, list(ports).index(first))
            continue
        argument = _handed_on(graph, output, outputs, used)
        if argument is not None:
            found[port] = outputs[argument]
            bases[port] = Base(argument.tensor, port_at.get(graph.outputs[found[port]]))
    return Emitted(ports, bases, found)


def _is_alike(graph: TracedGraph, outputs: Mapping[Output, int], *both: Output) -> bool:
    """Whether two tensors have the same shape and are not the same."""
    first, second = (graph.outputs[outputs[each]] for each in both)
    return first is not second and first.meta["val"].shape == second.meta["val"].shape


def _handed_on(
    graph: TracedGraph, output: Output, outputs: Mapping[Output, int], used: AbstractSet[Node]
) -> Output | None:
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


def read_topology(
    program: ExportedProgram,
    graph: TracedGraph,
    emitted: Emitted,
    units: Units,
    *,
    samples: int,
    groups: Groups | None,
) -> Topology:
    """Blocks, ports, computations, segments and bases of a trace.

    Args:
        program: the trace.
        graph: its nodes by role.
        emitted: see `emitted_by`.
        units: modules whose cost is told apart, with their stream.
        samples: rows of the first call.
        groups: of steps, one per prediction.
    """
    last_port = {output.block: port for port, output in enumerate(emitted.ports)}
    blocks = sorted(last_port, key=last_port.__getitem__)
    ports = {graph.outputs[i]: port for port, i in enumerate(emitted.ports.values())}
    based: defaultdict[Node, list[int]] = defaultdict(list)
    for port, output in emitted.outputs.items():
        based[graph.outputs[output]].append(port)
    members = graph.members(ports, based)
    predictions = map(prediction_of, range(len(graph.predictions)))
    targets = [*map(port_of, range(len(ports))), *predictions, *map(base_of, emitted.bases)]
    owners = {base_of(port): output.block for port, output in enumerate(emitted.ports)}
    return Topology(
        blocks=tuple(blocks),
        ports=tuple(
            Port(blocks.index(output.block), output.tensor, tuple(node.meta["val"].shape))
            for output, node in zip(emitted.ports, ports, strict=True)
        ),
        computations=_computations(graph, targets, ports, based, members),
        segments=_segments(program, graph, members, replace(units, owners=owners), samples),
        bases=emitted.bases,
        groups=groups,
    )


def _computations(
    graph: TracedGraph,
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


class TracedGraph:
    """The nodes of an exported program by the role they play here."""

    def __init__(
        self, program: ExportedProgram, inputs: tuple[str, ...], predictions: int = 1
    ) -> None:
        self.nodes: list[Node] = list(program.graph.nodes)
        by_name = {node.name: node for node in self.nodes}
        self.outputs = [by_name[spec.arg.name] for spec in program.graph_signature.output_specs]
        self.predictions = self.outputs[:predictions]
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
            mine = {
                prediction_of(group)
                for group, prediction in enumerate(self.predictions)
                if prediction is node
            }
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


@dataclass(frozen=True)
class Units:
    """Which modules have to run for an operation.

    Attributes:
        names: of these modules, with their stream.
        order: per network in the trace, the stream of each of its calls.
        owners: the blocks of the bases.
    """

    names: AbstractSet[str]
    order: Mapping[str, Sequence[str]]
    owners: Mapping[Target, str] = field(default_factory=dict)

    def of(self, nodes: Iterable[Node], targets: frozenset[Target]) -> frozenset[str]:
        """The units around `nodes`; a block need not run for the sake of its own base."""
        for_base = {self.owners[target] for target in targets & self.owners.keys()}
        around = {u for node in nodes for u in _modules(node, self.order)}
        return frozenset(around & self.names) - for_base


def _segments(
    program: ExportedProgram,
    graph: TracedGraph,
    members: Mapping[Node, frozenset[Target]],
    units: Units,
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


def _modules(node: Node, order: Mapping[str, Sequence[str]]) -> Iterable[str]:
    """Names of the networks' modules around a node, with their stream, outermost first."""
    network, stream = "", ""
    for key, (name, _) in node.meta.get("nn_module_stack", {}).items():
        if name in order:
            # Later calls of a module are numbered behind an @.
            network = name
            stream = order[name][int(key.rpartition("@")[2]) if "@" in key else 0]
        elif network and name.startswith(f"{network}."):
            yield block_name(stream, name.removeprefix(f"{network}."))
