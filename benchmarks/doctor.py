"""`python -m benchmarks.doctor [NAME ...]`: time and memory of `stepcarve doctor` on large pipelines without weights.

Their folders hold configurations alone: a denoiser of a public model's size behind small other parts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    ModelMixin,
    UNet2DConditionModel,
)
from transformers import Mistral3ForConditionalGeneration, PreTrainedModel

from benchmarks import record
from benchmarks.families import texts, words
from benchmarks.full_size import SD15_CHANNELS, behind_two_texts, sdxl_unet
from tests.pipelines import behind_wide_text


def sd15() -> Any:
    """Stable Diffusion 1.5."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=SD15_CHANNELS,
        )
    return behind_wide_text(unet)


def sdxl() -> Any:
    """SDXL."""
    return behind_two_texts(sdxl_unet())


def flux2() -> Any:
    """FLUX.2 dev: its transformer and autoencoder, and a text encoder of its width with three layers."""
    sizes = texts.mistral3_sizes(3)
    sizes.text_config.hidden_size = 5120
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel()
        vae = AutoencoderKLFlux2()
        encoder = Mistral3ForConditionalGeneration(sizes)
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=words.mistral(),
        transformer=transformer,
    )


PIPELINES = {
    "sd15": (sd15, []),
    "sdxl": (sdxl, []),
    "flux2": (flux2, ["--call", "text_encoder_out_layers=[1,2,3]"]),
}
"""Name -> what makes the pipeline, and options of the command."""


def save_configurations(pipe: Any, folder: Path) -> None:
    """What `save_pretrained` writes, but for the weights."""
    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if isinstance(part, PreTrainedModel):
            part.config.save_pretrained(folder / name)
        elif isinstance(part, ModelMixin):
            part.save_config(folder / name)
        elif part is not None:
            part.save_pretrained(folder / name)


def measure(name: str) -> dict[str, Any]:
    """The command's answer, its time on the clock and on the processor, and its peak memory."""
    make, options = PIPELINES[name]
    with tempfile.TemporaryDirectory() as folder:
        save_configurations(make(), Path(folder))
        command = [sys.executable, "-m", "cli", "doctor", folder, "--json", *options]
        start = time.perf_counter()
        with tempfile.TemporaryFile("w+") as answer:
            process = subprocess.Popen(command, stdout=answer)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            answer.seek(0)
            found = json.loads(answer.read())
    return {
        "exit_code": process.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "options": options,
        "answer": found,
    }


if __name__ == "__main__":
    measured: dict[str, Any] = {}
    for each in sys.argv[1:] or [*PIPELINES]:
        measured[each] = measure(each)
        record.write("doctor", measured)
