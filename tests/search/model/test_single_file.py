"""Single-file checkpoints, as Stable Diffusion was first published, against the pipeline they are of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.families import pictured_sd
from search.core.errors import SearchError
from search.model.opening import open_pipeline
from search.model.single_file import convert
from tests.command_line import ok, stepcarve

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
"""Names within a U-Net's ResNet, here and as first published."""
UNET = (
    (r"time_embedding.linear_1", "time_embed.0"),
    (r"time_embedding.linear_2", "time_embed.2"),
    (r"conv_in", "input_blocks.0.0"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
    (r"mid_block.resnets.0", "middle_block.0"),
    (r"mid_block.attentions.0", "middle_block.1"),
    (r"mid_block.resnets.1", "middle_block.2"),
    (r"down_blocks.0.resnets.0", "input_blocks.1.0"),
    (r"down_blocks.0.attentions.0", "input_blocks.1.1"),
    (r"down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    (r"down_blocks.1.resnets.0", "input_blocks.3.0"),
    (r"up_blocks.0.resnets.0", "output_blocks.0.0"),
    (r"up_blocks.0.resnets.1", "output_blocks.1.0"),
    (r"up_blocks.0.upsamplers.0.conv", "output_blocks.1.1.conv"),
    (r"up_blocks.1.resnets.0", "output_blocks.2.0"),
    (r"up_blocks.1.attentions.0", "output_blocks.2.1"),
    (r"up_blocks.1.resnets.1", "output_blocks.3.0"),
    (r"up_blocks.1.attentions.1", "output_blocks.3.1"),
)
"""Of a U-Net with two levels of one layer."""
VAE = (
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0", "up_blocks.-2"),
    (r"up_blocks\.2", "up_blocks.0"),
    (r"up_blocks\.-2", "up_blocks.2"),
    (r"up_blocks\.(\d)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
)
"""Of an autoencoder with three levels, whose decoder is counted from the other end."""


def original(pipe: Any) -> dict[str, Tensor]:
    """The weights of a Stable Diffusion pipeline by their first names."""
    found: dict[str, Tensor] = {}
    for name, tensor in pipe.unet.state_dict().items():
        for here, there in UNET:
            if name.startswith(f"{here}."):
                inner = name.removeprefix(f"{here}.")
                if "resnets" in here:
                    for mine, theirs in RESNET:
                        inner = inner.replace(mine, theirs)
                found[f"model.diffusion_model.{there}.{inner}"] = tensor
    for name, tensor in pipe.vae.state_dict().items():
        value = tensor
        for here, there in VAE:
            name = re.sub(here, there, name)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            value = tensor[:, :, None, None]
        found[f"first_stage_model.{name}"] = value
    for name, tensor in pipe.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"cond_stage_model.transformer.{inner}"] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


def toy(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    parts = pictured_sd.parts()
    return pictured_sd.with_random_weights(StableDiffusionPipeline(**parts), 211)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_converted_checkpoint_is_the_pipeline(tmp_path: Path, dtype: torch.dtype) -> None:
    pipe = toy(tmp_path).to(dtype)
    pipe.save_pretrained(tmp_path / "whole")
    save_file(original(pipe), tmp_path / "file.safetensors")
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        file.unlink()  # nothing comes from there
    ok(
        "convert",
        tmp_path / "file.safetensors",
        "--config",
        tmp_path / "whole",
        "-o",
        tmp_path / "made",
    )
    pipe.save_pretrained(tmp_path / "again")
    made, expected = open_pipeline(tmp_path / "made"), open_pipeline(tmp_path / "again")
    assert made.fingerprint == expected.fingerprint
    for name in ("unet", "vae", "text_encoder"):
        mine = getattr(made.pipe, name).state_dict()
        theirs = getattr(expected.pipe, name).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.slow
def test_a_file_of_another_pipeline_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    save_file({"model.diffusion_model.out.2.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(SearchError, match=r"cannot load .*a\.safetensors' as the StableDiffusion"):
        convert(tmp_path / "a.safetensors", pipelines("three-levels"), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_file_that_is_no_checkpoint_is_refused(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"pickled")
    with pytest.raises(SearchError, match=r"cannot read the checkpoint .*; give a \.safetensors"):
        convert(file, pipelines("three-levels"), tmp_path / "made")


def test_a_checkpoint_in_the_place_of_a_directory_says_how_to_convert_it(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"1")
    refused = stepcarve("search", file, "-o", tmp_path / "subnet.json")
    assert refused.exit_code == 2
    assert "stepcarve convert FILE --config DIR -o PIPELINE" in refused.stderr
