"""The first block of a call that is off: the block outputs of a step graph against PyTorch's.

Of a quantised bundle it is the first layer, if one is off by itself.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError
from engines.parity.floor import block_floors
from engines.parity.layers import first_layer
from engines.parity.measure import compare
from engines.parity.replay import replay
from engines.runner import Runner
from engines.temporary import process_name, remove_stale
from search.core.files import sha256
from search.core.names import PREDICTION
from search.core.precision import precision_named
from search.core.topology import port_of, residual_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from engines.base import Engine
    from engines.parity.measure import Difference
    from engines.parity.record import Rung
    from engines.parity.reference import Reference
    from engines.parity.replay import Replayed
    from exporter.bundle import Bundle


def first_block(reference: Reference, engine: Engine, rung: Rung, k: float) -> str:
    """A sentence that names the first block or layer, call and step that are off on a rung that failed."""
    bad = [call for call in rung.calls if any(not each.passed for each in call.forced.values())]
    if not bad:
        return (
            f"{rung.name}: every call gives what PyTorch gives on the same inputs, so no block is off; "
            "what is off lies between the calls: caches, coefficients, or state that is left over"
        )
    call = bad[0]
    given = next(each for each in replay(reference, inner=[call.call]) if each.number == call.call)
    if reference.bundle.plan is not None:
        layer = first_layer(reference, partial(_outputs, reference, engine, given), given.number)
        if layer:
            return f"{rung.name}: {call.where}: {layer}"
    floors, k = block_floors(reference, rung.precision, given, k)
    found = _outputs(reference, engine, given, _emitted(reference, given))
    expected = {name: given.made[name] for name in found if name in given.made}
    measured = compare(expected, found, floors, k)
    order = [name for name in given.made if name in measured and name != PREDICTION]
    off = next((name for name in order if not measured[name].passed), None)
    if off is None:
        last = order[-1] if order else "the inputs"
        return (
            f"{rung.name}: {call.where}: all blocks give what PyTorch gives; what is off comes after "
            f"{last!r}, on the way to {PREDICTION!r}: {_amount(measured[PREDICTION])}"
        )
    return (
        f"{rung.name}: {call.where}: the first block that is off is {_block(off)!r}, its output {off!r} "
        f"differs by {_amount(measured[off])}; {_before(order, off)}"
    )


def _block(name: str) -> str:
    """The block that a tensor belongs to."""
    return name.rpartition("..")[2].partition(":")[0]


def _before(order: list[str], off: str) -> str:
    """What is right before it."""
    right = [_block(name) for name in order[: order.index(off)]]
    return (
        f"{len(right)} before it are right, up to {right[-1]!r}" if right else "none runs before it"
    )


def _amount(difference: Difference) -> str:
    return f"{difference.relative:.2e}, allowed is {difference.allowed:.1e}"


def _emitted(reference: Reference, given: Replayed) -> dict[str, tuple[int, ...]]:
    """What the blocks of a call emit, inner ones included: name -> shape."""
    topology = reference.subnet.topology
    images = reference.bundle.latent_shape[0]
    shapes = {
        topology.name(target): port.shape
        for number, port in enumerate(topology.ports)
        for target in (port_of(number), residual_of(number))
    }
    found = {}
    for name in given.made:
        if name != PREDICTION:
            rows, *rest = shapes[name.rpartition("..")[2]]
            found[name] = (rows * images, *rest)
    return found


def _outputs(
    reference: Reference,
    engine: Engine,
    given: Replayed,
    inner: Mapping[str, tuple[int, ...]],
) -> dict[str, NDArray[Any]]:
    """What a call gives on the reference's inputs, and the inner values, whose shapes are given."""
    inputs = reference.inputs
    with _exposed(reference.bundle, given.number, inner) as opened:
        runner = Runner(opened, engine)
        runner.prepare(
            inputs.prompt,
            negative=inputs.negative,
            guidance=inputs.guidance,
            pictures=opened.example_pictures,
            latents=inputs.latents,
            seed=inputs.seed,
        )
        return dict(runner.call(given.number, given.sample, given.reads))


@contextmanager
def _exposed(
    bundle: Bundle, number: int, values: Mapping[str, tuple[int, ...]]
) -> Iterator[Bundle]:
    """The bundle with a copy of the graph of call `number` that also gives the inner `values`.

    The copy lies beside the weights while this is open: runtimes read external data from there only.

    Raises:
        EngineError: the graph does not name its blocks, or the bundle cannot be written to.
    """
    import onnx

    call = bundle.calls[number]
    source = bundle.graphs[call.graph]
    model = onnx.load(str(bundle.file(source)), load_external_data=False)
    present = {name for node in model.graph.node for name in node.output}
    given = {value.name for value in model.graph.output}
    inner = [name for name in values if name in present - given]
    if not inner and not call.writes:
        msg = f"{source} does not name the outputs of its blocks; export again with this stepcarve"
        raise EngineError(msg)
    kind = getattr(onnx.TensorProto, precision_named(bundle.dtype).onnx)
    slots = list(bundle.slots)
    writes = dict(call.writes)
    for name in inner:
        shape = values[name]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        writes[name] = len(slots)
        slots.append(shape)
    calls = [*bundle.calls]
    calls[number] = replace(call, graph=len(bundle.graphs), writes=writes)
    with _beside(bundle.path, model.SerializeToString()) as file:
        yield replace(
            bundle,
            graphs=(*bundle.graphs, file.name),
            calls=tuple(calls),
            slots=tuple(slots),
            files={**bundle.files, file.name: sha256(file)},
        )


PREFIX = ".bisect-"
"""Begins the names of such copies."""


@contextmanager
def _beside(folder: Path, content: bytes) -> Iterator[Path]:
    """A temporary file in `folder`; if this process is killed, the next one removes it."""
    try:
        remove_stale(folder, PREFIX)
        prefix = f"{process_name(PREFIX)}."
        with tempfile.NamedTemporaryFile(prefix=prefix, suffix=".onnx", dir=folder) as stream:
            stream.write(content)
            stream.flush()
            yield Path(stream.name)
    except PermissionError as error:
        msg = (
            f"{str(folder)!r} cannot be written to, but --bisect writes a graph there; copy the bundle to a "
            "directory that can"
        )
        raise EngineError(msg) from error
