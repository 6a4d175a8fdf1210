"""`export()`: from a SubNet and its pipeline to a bundle, in order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from exporter.bundle import QUANTISATION, WEIGHTS, Bundle, require_dtype, require_part_dtype
from exporter.errors import ExportError
from exporter.part_precision import lower_parts
from exporter.preflight import require_room
from exporter.preview import fit_preview
from exporter.staging import Staging, staging
from exporter.variant import Variant, carve_variant
from exporter.weights import refer, write_weights
from search.core.files import require_free, sha256
from search.core.versions import environment, versions_of
from search.model.ip_adapter import ENCODER, take_ip_adapter
from search.model.lora import take_loras
from search.model.opening import open_for
from search.model.whole import resized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenizers import Tokenizer

    from search.core.lora import IPAdapter, Lora
    from search.core.quantisation import Quantisation
    from search.core.subnet import SubNet
    from search.model.pipeline import Pipeline

PACKAGES = (
    "stepcarve",
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "numpy",
)
"""Whose versions decide what an export writes."""


def export(
    path: Path | str,
    subnet: SubNet,
    out: Path | str,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    batches: Sequence[int] = (1,),
    dtype: str = "float32",
    loras: Sequence[Lora] = (),
    live_loras: Sequence[Lora] = (),
    ip_adapter: IPAdapter | None = None,
    text_dtype: str = "float32",
    vae_dtype: str = "float32",
    plan: Quantisation | None = None,
    report: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Compile `subnet` of the pipeline at `path` into the bundle `out`.

    Args:
        path: the pipeline's directory.
        subnet: a SubNet that is bound to that pipeline.
        out: the directory to make; it appears whole or not at all.
        sizes: heights and widths of the pictures in pixels; empty: the SubNet's own.
        batches: numbers of images per prompt. The bundle has a variant for each size and each of these;
            the first is the default.
        dtype: the type of the denoiser's weights and activations: float32, float16 or bfloat16.
        loras: LoRAs to fuse into the weights, in this order; `subnet` was searched without them.
        live_loras: named LoRAs to keep apart from the weights, with their scales as inputs.
        ip_adapter: an IP-Adapter to add; a run gives it a picture.
        text_dtype: the type of the text encoders; or one of `weight_schemes`, for their weights alone.
        vae_dtype: the same for the autoencoder. A part whose results are not close to those in float32
            stays float32.
        plan: which layers to quantise, and how; None: none.
        report: called with a short progress message.
        note: called with a sentence for each part that stays float32, or whose weights are rounded.

    Returns:
        The bundle, opened at its first variant.

    Raises:
        SearchError: the SubNet is for another pipeline or cannot be used at one of the `sizes`, the plan
            is for another SubNet, a LoRA or IP-Adapter does not fit, or `out` exists.
        ExportError: unknown `dtype`, too little memory or disk, or something cannot be exported.
    """
    path, out = Path(path), Path(out)
    dtypes = (dtype, text_dtype, vae_dtype)
    _require_possible(subnet, out, dtypes, batches, plan)
    report("open pipeline")
    pipeline = open_for(subnet, path, weights=False)
    shapes = _shapes(pipeline, subnet, sizes, batches)
    changed = (*loras, *live_loras)
    report(require_room(pipeline, out, dtype, len(shapes), fused=bool(changed)))
    _load(pipeline, loras, live_loras, ip_adapter, report)
    parts = lower_parts(pipeline, shapes[0][0], text=text_dtype, vae=vae_dtype, note=note)
    changed += () if ip_adapter is None else (ip_adapter,)
    with staging(out, _key(pipeline, shapes, dtypes, changed, plan)) as stage:
        variants = [
            carve_variant(pipeline, each, batch, dtype, plan, report, parts)
            for each, batch in shapes
        ]
        preview = _preview(pipeline, variants[0], report)
        report("write")
        stage.commit(
            {
                "dtype": dtype,
                "text_dtype": text_dtype,
                "vae_dtype": vae_dtype,
                "parts": parts,
                "loras": [each.to_json() for each in loras],
                "live_loras": [each.to_json() for each in live_loras],
                "ip_adapter": None if ip_adapter is None else ip_adapter.to_json(),
                "preview": preview,
                **_write(pipeline, variants, stage),
                **({} if plan is None else {"quantisation": stage.share(QUANTISATION, plan.save)}),
                "environment": environment(PACKAGES),
            }
        )
    return Bundle.open(out)


def _require_possible(
    subnet: SubNet,
    out: Path,
    dtypes: Sequence[str],
    batches: Sequence[int],
    plan: Quantisation | None,
) -> None:
    """Refuse what is wrong before the pipeline is opened."""
    denoiser, *parts = dtypes
    require_dtype(denoiser)
    for each in parts:
        require_part_dtype(each)
    if not batches or min(batches) < 1:
        msg = f"the batch is {min(batches, default=0)}; give 1 or more"
        raise ExportError(msg)
    require_free(out)
    if plan is not None:
        plan.require_for(subnet)


def _shapes(
    pipeline: Pipeline, subnet: SubNet, sizes: Sequence[tuple[int, int]], batches: Sequence[int]
) -> list[tuple[SubNet, int]]:
    """Per variant, the SubNet at its size and the number of images."""
    own = pipeline.size(subnet.binding.noise_shape)
    subnets = [resized(pipeline, subnet, size) for size in dict.fromkeys(sizes or (own,))]
    return list(product(subnets, dict.fromkeys(batches)))


def _load(
    pipeline: Pipeline,
    loras: Sequence[Lora],
    live_loras: Sequence[Lora],
    ip_adapter: IPAdapter | None,
    report: Callable[[str], None],
) -> None:
    """Load LoRAs and IP-Adapter, and the weights of the parts around the denoiser."""
    if loras or live_loras:
        report(f"load {', '.join(each.file.name for each in (*loras, *live_loras))}")
        take_loras(pipeline, loras, live_loras)
    if ip_adapter is not None:
        report(f"load {ip_adapter.file.name}")
        take_ip_adapter(pipeline, ip_adapter)
    pipeline.load_around()


def _preview(
    pipeline: Pipeline, variant: Variant, report: Callable[[str], None]
) -> list[list[float]] | None:
    """The matrix from latents to colours."""
    report("fit preview")
    binding = variant.subnet.binding
    return fit_preview(pipeline, binding.noise_shape, binding.latent_shape, variant.layout, report)


def _write(pipeline: Pipeline, variants: list[Variant], stage: Staging) -> dict[str, Any]:
    """Write every file but the manifest, and return what the manifest says."""
    models = [model for variant in variants for model in variant.models]
    index = stage.make(WEIGHTS, lambda _: write_weights(stage.folder, models))
    for model in models:
        refer(stage.folder, model, index)
    first = variants[0]
    for name, tokenizer in first.prompts.tokenizers.items():
        stage.make(name, partial(_save_tokenizer, tokenizer))
    return {
        "pipeline": str(pipeline.path),
        "guided": first.subnet.binding.guided,
        "scaled": first.takes_scale,
        "guidance": first.subnet.guidance,
        "prompt_inputs": [asdict(each) for each in first.prompts.inputs],
        "encoder_inputs": [asdict(each) for each in first.encoder_inputs],
        "labels": getattr(pipeline.pipe, "labels", {}),
        "variants": [
            each.to_json()
            | _write_variant(each, "" if each is first else f"-{each.shape.tag}", stage)
            for each in variants
        ],
    }


def _write_variant(variant: Variant, tag: str, stage: Staging) -> dict[str, Any]:
    """Write the files of one variant, `tag` in their names; those that others have too are shared."""

    def save(model: ir.Model) -> str:
        return stage.share(f"{model.graph.name}{tag}.onnx", partial(ir.save, model))

    prologue, layout = variant.prologue, variant.layout
    return {
        "subnet": stage.share(f"subnet{tag}.json", variant.subnet.save),
        "conditioner": save(variant.condition),
        "prologue": None if prologue is None else save(prologue.model),
        "decoder": save(variant.decode),
        "encoder": None if variant.encode is None else save(variant.encode),
        "graphs": [save(model) for model in variant.steps],
        "layout": None
        if layout is None
        else stage.share(f"layout{tag}.npy", partial(_save_layout, layout)),
    }


def _save_tokenizer(tokenizer: Tokenizer, file: Path) -> None:
    """Write it as the JSON of the tokenizers library."""
    file.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


def _save_layout(layout: tuple[int, ...], file: Path) -> None:
    """Write it as a numpy array of int32."""
    with file.open("wb") as stream:
        np.save(stream, np.array(layout, np.int32))


def _key(
    pipeline: Pipeline,
    shapes: list[tuple[SubNet, int]],
    dtypes: str | tuple[str, ...],
    loras: Sequence[Lora],
    plan: Quantisation | None = None,
) -> str:
    """Everything that decides the content of the bundle.

    The denoiser is in the SubNet's fingerprint; of the other parts that are used, every file counts.
    """
    used = [name for name, part in pipeline.pipe.components.items() if part is not None]
    around = {
        "model_index.json": {"": sha256(pipeline.path / "model_index.json")},
        **{n: _checksums(pipeline.path / n) for n in used if n not in pipeline.networks},
        # An IP-Adapter may bring its image encoder.
        **{each.sha256: _checksums(each.file.parent / ENCODER) for each in loras},
    }
    made = [(subnet.to_json(), batch) for subnet, batch in shapes]
    fused = [(each.what, each.sha256, each.scale, each.name) for each in loras]
    rounded = None if plan is None else plan.to_json()
    content = json.dumps(
        [made, dtypes, fused, rounded, versions_of(PACKAGES), around], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    """Of all files in a folder that may not be there, by their places in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}
