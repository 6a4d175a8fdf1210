"""`export()`: SubNet and pipeline go in, a bundle comes out."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from exporter import bundle as names
from exporter.bundle import Bundle, Staging, require_dtype, staging
from exporter.carve import carve
from exporter.components import Component, conditioner_graph, decoder_graph
from exporter.errors import ExportError
from exporter.preflight import require_room
from exporter.program import Program, plan_program
from exporter.prologue import make_prologue
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

    from tokenizers import Tokenizer

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
        pipeline.sampler(subnet.binding.inference_steps, pipeline.size(subnet.binding.noise_shape))
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
    master = trace_denoiser(pipeline, subnet, program.replaced(subnet.topology), batch, dtype)
    report("trace text encoders and decoder")
    conditioner = pipeline.family.conditioner(pipeline, conditioning(pipeline, subnet, batch))
    condition = conditioner_graph(conditioner, dtype)
    decoder = decoder_graph(pipeline, latent_shape, pipeline.size(binding.noise_shape))
    _check_conditions(condition, master)

    steps = {}
    for number, signature in enumerate(program.signatures):
        name = f"step_{number:03d}"
        report(f"carve {name} of {len(program.signatures)}")
        steps[f"{name}.onnx"] = carve(master, signature, name)
    reads = {value.name or "" for step in steps.values() for value in step.graph.inputs}
    prologue = make_prologue(master, reads, program.timesteps)
    models = {names.CONDITIONER: condition.model, **steps, names.DECODER: decoder.model}
    if prologue is not None:
        models[names.PROLOGUE] = prologue.model

    report("write weights")
    index = stage.make(names.WEIGHTS, lambda _: write_weights(stage.folder, models.values()))
    for file, model in models.items():
        refer(stage.folder, model, index)
        stage.make(file, partial(ir.save, model))
    for name, tokenizer in conditioner.tokenizers.items():
        stage.make(name, partial(save_tokenizer, tokenizer))
    if master.layout is not None:
        stage.make(names.LAYOUT, partial(save_layout, master.layout))
    stage.make(names.SUBNET, subnet.save)
    return {
        "pipeline": str(pipeline.path),
        "dtype": dtype,
        "latent_shape": latent_shape,
        "guided": binding.guided,
        "guidance": subnet.guidance,
        "noise_shape": (batch, *binding.noise_shape),
        "prompt_inputs": [vars(each) for each in conditioner.inputs],
        "labels": getattr(pipeline.pipe, "labels", {}),
        "rows": () if prologue is None else prologue.rows,
        "graphs": list(steps),
        **program.to_json(subnet.topology.tensor_names),
    }


def save_tokenizer(tokenizer: Tokenizer, file: Path) -> None:
    """Write it as the JSON of the tokenizers library."""
    tokenizer.save(str(file))


def save_layout(layout: tuple[int, ...], file: Path) -> None:
    """Write it as a numpy array of int32."""
    with file.open("wb") as stream:
        np.save(stream, np.array(layout, np.int32))


def conditioning(pipeline: Pipeline, subnet: SubNet, batch: int) -> Request:
    """What the conditioner is made for: `batch` images of one prompt."""
    binding = subnet.binding
    return Request(
        prompts=(pipeline.family.default_prompt,),
        steps=binding.inference_steps,
        guidance=subnet.guidance,
        latents=torch.zeros(batch, *binding.latent_shape),
        images=batch,
    ).sized(pipeline.size(binding.noise_shape))


def trace_denoiser(
    pipeline: Pipeline,
    subnet: SubNet,
    replaced: AbstractSet[int],
    batch: int,
    dtype: str = "float32",
) -> Master:
    """Trace for `batch` images and check that the blocks are those of the SubNet.

    Args:
        pipeline: that `subnet` is bound to.
        subnet: whose granularity, guidance and shape to trace at.
        replaced: the blocks whose residuals, sums and bases are wanted.
        batch: images per prompt.
        dtype: of weights and activations.

    Raises:
        ExportError: the denoiser has other blocks, or makes latents of another shape.
    """
    binding = subnet.binding
    request = Request(
        prompts=(pipeline.family.default_prompt,) * batch,
        steps=binding.inference_steps,
        guidance=subnet.guidance,
    ).sized(pipeline.size(binding.noise_shape))
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
    return trace_master(pipeline, traced, replaced)


def _check_conditions(condition: Component, master: Master) -> None:
    missing = sorted(
        set(master.inputs) - set(master.invariants) - set(condition.outputs) - LOOP_INPUTS
    )
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
