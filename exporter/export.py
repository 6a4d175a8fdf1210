"""`export()`: SubNet and pipeline go in, a bundle comes out."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from exporter import bundle as names
from exporter.bundle import Bundle, Staging, require_dtype, staging
from exporter.carve import carve
from exporter.components import Component, conditioner_graph, decoder_graph, padded_tokenizer
from exporter.errors import ExportError
from exporter.preflight import require_room
from exporter.program import Program, Signature, plan_program
from exporter.trace import Master, trace_master
from exporter.weights import refer, write_weights
from search.model.family import Request
from search.model.pipeline import Pipeline, open_for
from search.model.trace import trace
from search.names import GUIDANCE, SAMPLE, TIMESTEP

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from search.subnet import SubNet

LOOP_INPUTS = frozenset({SAMPLE, TIMESTEP, GUIDANCE})


def export(
    path: Path,
    subnet: SubNet,
    out: Path,
    *,
    batch: int = 1,
    dtype: str = "float32",
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Compile `subnet` of the pipeline at `path` into the bundle `out`.

    Args:
        path: the pipeline's directory.
        subnet: bound to that pipeline.
        out: the directory to make; it appears whole or not at all.
        batch: images per prompt.
        dtype: of the denoiser's weights and activations, one of `exporter.bundle.DTYPES`.
        report: told, in a few words, what is being done.

    Raises:
        SearchError: the SubNet is for another pipeline.
        ExportError: unknown `dtype`, too little memory or disk, `out` exists, or something cannot be exported.
    """
    require_dtype(dtype)
    if batch < 1:
        msg = f"the batch is {batch}; give 1 or more"
        raise ExportError(msg)
    if out.exists():
        msg = f"{str(out)!r} exists; remove it or choose another name"
        raise ExportError(msg)
    report("open pipeline")
    pipeline = open_for(subnet, path, weights=False)
    table = (
        pipeline.sampler(subnet.binding.inference_steps)
        if subnet.fitted is None
        else subnet.fitted.table
    )
    program = plan_program(subnet, batch)
    report(require_room(pipeline, out, dtype))
    with staging(out, _key(pipeline, subnet, batch, dtype)) as stage:
        manifest = _write(pipeline, subnet, program, batch, dtype, stage, report)
        stage.commit({**manifest, "sampler": program.reduce(table).to_json()})
    return Bundle.open(out)


def _write(
    pipeline: Pipeline,
    subnet: SubNet,
    program: Program,
    batch: int,
    dtype: str,
    stage: Staging,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write every file but the manifest, and return what the manifest says."""
    binding = subnet.binding
    latent_shape = (batch, *binding.latent_shape)
    report("trace denoiser")
    master = trace_denoiser(pipeline, subnet, program.deltas(subnet.topology), batch, dtype)
    report("trace text encoder and decoder")
    inputs = pipeline.family.prompt_inputs(pipeline.pipe, guided=binding.guided)
    condition = conditioner_graph(pipeline, inputs, guided=binding.guided, batch=batch, dtype=dtype)
    decoder = decoder_graph(pipeline, latent_shape)
    _check_conditions(condition, master)

    report("write weights")
    values = [*master.weights, *condition.weights, *decoder.weights]
    index = stage.make(names.WEIGHTS, lambda _: write_weights(stage.folder, values))
    refer(stage.folder, values, index)

    stage.make(names.CONDITIONER, lambda file: ir.save(condition.model, file))
    stage.make(names.DECODER, lambda file: ir.save(decoder.model, file))
    graphs = []
    for number, signature in enumerate(program.signatures):
        name = f"step_{number:03d}"
        report(f"carve {name} of {len(program.signatures)}")
        graphs.append(f"{name}.onnx")
        stage.make(graphs[-1], partial(save_step, master, signature, name))
    if any(each.length for each in inputs):
        tokenizer = padded_tokenizer(pipeline.pipe.tokenizer)
        stage.make(names.TOKENIZER, lambda file: tokenizer.save(str(file)))
    stage.make(names.SUBNET, subnet.save)
    return {
        "pipeline": str(pipeline.path),
        "dtype": dtype,
        "latent_shape": latent_shape,
        "guided": binding.guided,
        "guidance": subnet.guidance,
        "prompt_inputs": [vars(each) for each in inputs],
        "labels": getattr(pipeline.pipe, "labels", {}),
        "graphs": graphs,
        **program.to_json(subnet.topology.tensor_names),
    }


def save_step(master: Master, signature: Signature, name: str, file: Path) -> None:
    """Carve the graph of one signature and write it to `file`, beside the weights."""
    ir.save(carve(master, signature, name), file)


def trace_denoiser(
    pipeline: Pipeline,
    subnet: SubNet,
    deltas: AbstractSet[int],
    batch: int,
    dtype: str = "float32",
) -> Master:
    """Trace for `batch` images and check that the blocks are those of the SubNet.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: whose granularity, guidance and shape to trace at.
        deltas: the blocks whose residuals and sums are wanted.
        batch: images per prompt.
        dtype: of weights and activations.

    Raises:
        ExportError: the denoiser has other blocks, or makes latents of another shape.
    """
    binding = subnet.binding
    scale = getattr(pipeline.pipe, "vae_scale_factor", 1)
    request = Request(
        prompts=(pipeline.family.default_prompt,) * batch,
        steps=binding.inference_steps,
        guidance=subnet.guidance,
        height=binding.latent_shape[1] * scale,
        width=binding.latent_shape[2] * scale,
    )
    traced = trace(pipeline, subnet.granularity, request, getattr(torch, dtype))
    topology = subnet.topology
    # A SubNet of schema 1 knows nothing of residuals, and has no use for them.
    allowed = traced.topology.deltas if topology.deltas else ()
    reads = traced.topology.reads[: len(topology.reads)]
    if (traced.topology.blocks, reads, allowed) != (
        topology.blocks,
        topology.reads,
        topology.deltas,
    ):
        msg = (
            f"the denoiser traced here has other blocks than the SubNet ({len(traced.topology.blocks)} "
            f"against {len(topology.blocks)}); search again with this version of diffusers"
        )
        raise ExportError(msg)
    if traced.latent_shape != binding.latent_shape:
        msg = (
            f"the SubNet is for latents {binding.latent_shape}, but the pipeline makes "
            f"{traced.latent_shape}; search again with this pipeline's size"
        )
        raise ExportError(msg)
    return trace_master(pipeline, traced, deltas)


def _check_conditions(condition: Component, master: Master) -> None:
    missing = sorted(set(master.inputs) - set(condition.outputs) - LOOP_INPUTS)
    if missing:
        msg = (
            f"the denoiser takes {missing}, which no prompt gives; "
            "the pipeline's family must make them in its conditioner"
        )
        raise ExportError(msg)


def _key(pipeline: Pipeline, subnet: SubNet, batch: int, dtype: str) -> str:
    """Everything that decides the content of the bundle.

    The denoiser is in the SubNet's fingerprint; of the other components, every file counts.
    """
    around = {
        str(path.relative_to(pipeline.path)): names.sha256(path)
        for path in sorted(pipeline.path.rglob("*"))
        if path.is_file() and path.parent.name != pipeline.family.component
    }
    versions = {
        name: metadata.version(name)
        for name in ("stepcarve", "torch", "diffusers", "transformers", "onnxscript", "onnx-ir")
    }
    content = json.dumps([subnet.to_json(), batch, dtype, versions, around], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
