"""Text encoders and autoencoders in half precision, and what is measured before."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from engines.base import make_engine
from engines.parity import verify
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.exporting import export
from exporter.part_precision import lower_parts
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline
from tests.engines.test_quantisation import a_wrong_scale, with_change

PROMPT, STEPS, SEED = "a red cross", 2, 3


def exported(path: Path, out: Path, notes: list[str], **dtypes: str) -> Bundle:
    opened = open_pipeline(path, weights=False)
    subnet = search(opened, "full", Options(steps=STEPS, guidance=3.0))
    return export(path, subnet, out, note=notes.append, **dtypes)  # type: ignore[arg-type]


def changed(path: Path, out: Path, change: Callable[[diffusers.DiffusionPipeline], None]) -> Path:
    """A copy of a pipeline with other weights."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    with torch.no_grad():
        change(pipe)
    pipe.save_pretrained(out)
    return out


def large_text(pipe: diffusers.DiffusionPipeline) -> None:
    """Values between two projections that float16 does not hold; the result is the same."""
    layer = pipe.text_encoder.encoder.layers[0].mlp
    layer.fc2.weight.mul_(1e-6)
    layer.fc1.weight.mul_(1e6)
    layer.fc1.bias.mul_(1e6)


def large_picture(pipe: diffusers.DiffusionPipeline) -> None:
    """Likewise in the decoder, whose next operation normalises."""
    pipe.vae.decoder.conv_in.weight.mul_(1e7)
    pipe.vae.decoder.conv_in.bias.mul_(1e7)


def in_half(bundle: Bundle, file: str) -> float:
    """The share of a graph's weights that are float16."""
    model = onnx.load(bundle.path / file, load_external_data=False)
    counts = dict.fromkeys((onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16), 0)
    for each in model.graph.initializer:
        is_weight = "." in each.name  # a constant is named after its operation
        if is_weight and each.external_data and each.data_type in counts:
            counts[each.data_type] += int(np.prod(each.dims))
    return counts[onnx.TensorProto.FLOAT16] / sum(counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three-levels", "sdxl", "sd3", "flux-dev", "pixart-sigma"])
def test_both_are_stored_and_compute_in_half_precision(
    pipelines: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    notes: list[str] = []
    path = pipelines(name)
    half = exported(path, tmp_path / "half", notes, text_dtype="float16", vae_dtype="float16")
    assert not notes
    assert set(half.parts.values()) == {"float16"}
    assert in_half(half, half.conditioner) > 0.5  # T5 keeps a third of its weights in float32
    assert in_half(half, half.decoder) > 0.9
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    own_size = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    with torch.no_grad():
        theirs = pipe(
            PROMPT,
            **own_size,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(SEED),
            output_type="np",
        ).images
    made = Runner(half, make_engine("onnxruntime", "cpu")).run(PROMPT, seed=SEED).images / 255
    assert np.abs(made - theirs).max() < 0.05
    parity, _ = verify(half, [make_engine("onnxruntime", "cpu")], path, prompt=PROMPT)
    assert parity.passed, parity.failures


@pytest.mark.slow
def test_weights_in_few_bits_are_those_of_the_reference(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """So nothing but rounding in float32 is allowed, and a wrong integer shows."""
    notes: list[str] = []
    path, chosen = pipelines("three-levels"), "int8-weights"
    small = exported(path, tmp_path / "small", notes, text_dtype=chosen, vae_dtype=chosen)
    assert small.parts == {"text_encoder": chosen, "vae": chosen}
    assert all(re.fullmatch(r"the \w+ in int8-weights: its .* are [\d.]+% off", n) for n in notes)
    engines = [make_engine(name, "cpu") for name in ("onnxruntime", "openvino")]
    parity, _ = verify(small, engines, path, prompt=PROMPT)
    assert parity.passed, parity.failures
    assert all(rung.worst.allowed < 1e-4 for rung in parity.engines if rung.worst)
    for file in (small.conditioner, small.decoder):
        wrong, _ = with_change(small.path, tmp_path / file, a_wrong_scale, file=file)
        assert not verify(wrong, engines[:1], path, prompt=PROMPT)[0].passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "dtypes", "part"),
    [
        (large_text, {"text_dtype": "float16"}, "text_encoder"),
        (large_picture, {"vae_dtype": "float16"}, "vae"),
    ],
)
def test_what_overflows_is_found_and_stays_float32(
    pipelines: Callable[[str], Path],
    tmp_path: Path,
    change: Callable[[diffusers.DiffusionPipeline], None],
    dtypes: dict[str, str],
    part: str,
) -> None:
    path = changed(pipelines("three-levels"), tmp_path / "large", change)
    opened = open_pipeline(path)
    subnet = search(opened, "full", Options(steps=STEPS, guidance=3.0))
    before = {name: tensor.clone() for name, tensor in opened.pipe.vae.state_dict().items()}
    notes: list[str] = []
    text, vae = dtypes.get("text_dtype", "float32"), dtypes.get("vae_dtype", "float32")
    assert lower_parts(opened, subnet, text=text, vae=vae, note=notes.append) == {part: "float32"}
    assert notes == [f"the {part} stays float32: its values in float16 are not finite"]
    after = opened.pipe.vae.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    wide = "bfloat16"
    text, vae = (wide if each == "float16" else each for each in (text, vae))
    assert lower_parts(opened, subnet, text=text, vae=vae, note=notes.append) == {part: wide}


@pytest.mark.slow
# diffusers warns of what it does itself.
@pytest.mark.filterwarnings("ignore:.*upcast_vae:FutureWarning")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_pipeline_that_would_change_its_autoencoder_cannot(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """SDXL's call decodes in float32 where `force_upcast` says so; here it is measured."""

    def forced(pipe: diffusers.DiffusionPipeline) -> None:
        pipe.vae.register_to_config(force_upcast=True)

    path = changed(pipelines("sdxl"), tmp_path / "forced", forced)
    notes: list[str] = []
    bundle = exported(path, tmp_path / "bundle", notes, vae_dtype="float16")
    assert bundle.parts == {"vae": "float16"}
    assert in_half(bundle, bundle.decoder) > 0.9


@pytest.mark.slow
def test_a_pipeline_without_text_encoders_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="has no part that --text-dtype is for; leave it out"):
        exported(pipelines("learned-variance"), tmp_path / "bundle", [], text_dtype="float16")


def test_what_a_class_keeps_in_float32_stays_so() -> None:
    from search.model.computing import compute_in

    class Part(nn.Module):
        _keep_in_fp32_modules = ("wo",)

        def __init__(self) -> None:
            super().__init__()
            self.wi, self.wo = nn.Linear(2, 2), nn.Linear(2, 2)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return self.wo(self.wi(latents).float())

    part = Part()
    undo = compute_in(part, torch.float16)
    assert (part.wi.weight.dtype, part.wo.weight.dtype) == (torch.float16, torch.float32)
    assert part.decode(torch.ones(1, 2)).dtype == torch.float32
    undo()
    assert part.wi.weight.dtype == torch.float32
    assert "decode" not in vars(part)
