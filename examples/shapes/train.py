"""Train the judge, the autoencoder, shapes-sd and shapes-dit: `python -m examples.shapes.train`."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiTPipeline, StableDiffusionPipeline
from onnx_ir.passes import common as passes

from examples.shapes import models
from examples.shapes.pictures import ATTRIBUTES, SIZE, Pictures, class_names, draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import DDIMScheduler
    from torch import Tensor, nn

HERE = Path(__file__).parent
LOG_EVERY = 50


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the trained weights; a step is one optimiser step on `batch` pictures."""

    seed: int = 0
    batch: int = 64
    judge_steps: int = 2500
    autoencoder_steps: int = 3500
    autoencoder_batch: int = 32
    autoencoder_rate: float = 2e-3
    kl_weight: float = 1e-5
    latent_pictures: int = 49152
    sd_steps: int = 7500
    dit_steps: int = 8000
    rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    weight_decay: float = 0.01
    snr_floor: float = 0.1
    snr_cap: float = 5.0
    drop_condition: float = 0.1


class Trainer:
    """One stage of training: optimiser, schedule, averaged weights, progress and loss log."""

    def __init__(self, name: str, module: nn.Module, settings: TrainSettings, out: Path) -> None:
        self.name, self.module, self.settings, self.out = name, module, settings, out
        self.average = copy.deepcopy(module).requires_grad_(False).eval()

    def fit(self, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
        """Minimise `loss()` for `steps` steps; afterwards `average` holds the smoothed weights."""
        settings = self.settings
        optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            max_lr=rate,
            total_steps=steps,
            pct_start=min(0.5, settings.warmup / steps),
            cycle_momentum=False,
        )
        rows, recent, began = [], 0.0, time.perf_counter()
        for step in range(1, steps + 1):
            value = loss()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            self._smooth(min(settings.ema, step / (step + 10)))
            recent += value.item()
            if step % LOG_EVERY == 0:
                rows.append((self.name, step, round(recent / LOG_EVERY, 6)))
                self._tell(step, steps, rows[-1][2], time.perf_counter() - began)
                recent = 0.0
        self._record(rows, time.perf_counter() - began)

    def _tell(self, step: int, steps: int, loss: float, seconds: float) -> None:
        # One plain line at a time: two stages train at once and share the terminal.
        if step % (10 * LOG_EVERY) == 0 or step == steps:
            left = seconds / step * (steps - step) / 60
            line = (
                f"{self.name:12} step {step:5} of {steps}   loss {loss:.4f}   {left:3.0f} min left"
            )
            click.echo(line)

    def _smooth(self, decay: float) -> None:
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(averages, list(self.module.parameters()), 1 - decay)

    def _record(self, rows: list[tuple[str, int, float]], seconds: float) -> None:
        folder = self.out / "training"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"loss-{self.name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("stage", "step", "loss"), *rows])
        record = {
            "stage": self.name,
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "settings": dataclasses.asdict(self.settings),
        }
        (folder / f"run-{self.name}.json").write_text(json.dumps(record, indent=2) + "\n")


def to_tensor(pictures: Pictures, device: torch.device) -> Tensor:
    """Pixels as `[N, 3, 64, 64]` float32 in 0..1."""
    pixels = torch.from_numpy(pictures.pixels).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255


def train_judge(settings: TrainSettings, out: Path, device: torch.device) -> None:
    """Train the judge on fresh, slightly noisy pictures and write `judge.onnx`."""
    rng = np.random.default_rng(settings.seed)
    net = models.JudgeNet().to(device)
    trainer = Trainer("judge", net, settings, out)

    def loss() -> Tensor:
        pictures = draw(settings.batch, rng)
        images = to_tensor(pictures, device)
        strength = torch.rand(len(images), 1, 1, 1, device=device) * 0.06
        logits = net(images + torch.randn_like(images) * strength)
        return sum(
            (
                F.cross_entropy(logits[name], torch.from_numpy(indices).to(device))
                for name, indices in pictures.attributes.items()
            ),
            start=torch.zeros((), device=device),
        )

    trainer.fit(loss, settings.judge_steps, settings.rate)
    export_judge(trainer.average.cpu(), out / "judge.onnx")


def export_judge(net: nn.Module, path: Path) -> None:
    """Write the judge as one ONNX file with the words of each attribute in its metadata."""
    batch = torch.export.Dim("N")
    program = torch.onnx.export(
        net.eval(),
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        input_names=["images"],
        output_names=["features", *ATTRIBUTES],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    passes.ClearMetadataAndDocStringPass()(program.model)  # it has the paths of this machine
    program.model.metadata_props.update({k: json.dumps(v) for k, v in ATTRIBUTES.items()})
    program.save(path, external_data=False)


def train_autoencoder(settings: TrainSettings, out: Path, device: torch.device) -> None:
    """Train the autoencoder, measure its latent scale and write it to `shapes-sd/vae`."""
    rng = np.random.default_rng(settings.seed + 1)
    vae: Any = models.autoencoder().to(device, memory_format=torch.channels_last)
    trainer = Trainer("autoencoder", vae, settings, out)

    def loss() -> Tensor:
        images = to_tensor(draw(settings.autoencoder_batch, rng), device) * 2 - 1
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss: Tensor = error.abs().mean() + 2 * error.square().mean()
        loss += settings.kl_weight * divergence
        return loss

    trainer.fit(loss, settings.autoencoder_steps, settings.autoencoder_rate)
    trained: Any = trainer.average
    mean, deviation = encode(trained, draw(1024, rng), device)
    latents = mean + deviation * torch.randn_like(mean)
    trained.register_to_config(scaling_factor=round(1 / latents.std().item(), 6))
    trained.to("cpu", memory_format=torch.contiguous_format).save_pretrained(
        out / "shapes-sd" / "vae"
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pictures, device: torch.device) -> tuple[Tensor, Tensor]:
    """Means and deviations of the latents of some pictures, `[N, 4, 16, 16]` each."""
    posterior = vae.encode(to_tensor(pictures, device) * 2 - 1).latent_dist
    return posterior.mean, posterior.std


class LatentData:
    """Encoded pictures with their captions and classes, served in random batches."""

    def __init__(
        self, settings: TrainSettings, out: Path, device: torch.device, *, place: str | None = None
    ) -> None:
        vae = AutoencoderKL.from_pretrained(out / "shapes-sd" / "vae").to(device).eval()
        rng = np.random.default_rng(settings.seed + 2)
        encoded: list[tuple[Tensor, Tensor]] = []
        labels: list[Tensor] = []
        self.captions: list[str] = []
        for _ in range(settings.latent_pictures // 64):
            pictures = draw(64, rng, place=place)
            encoded.append(encode(vae, pictures, device))
            self.captions += pictures.captions()
            labels.append(torch.from_numpy(pictures.labels()))
        self.mean = torch.cat([mean for mean, _ in encoded]) * vae.config.scaling_factor
        self.deviation = torch.cat([std for _, std in encoded]) * vae.config.scaling_factor
        self.labels = torch.cat(labels)
        self.device = device

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Indices `[size]` and freshly sampled latents `[size, 4, 16, 16]`."""
        chosen = torch.randint(len(self.mean), (size,))
        mean = self.mean[chosen]
        return chosen, mean + self.deviation[chosen] * torch.randn_like(mean)


def noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    scheduler: DDIMScheduler,
    settings: TrainSettings,
) -> Tensor:
    """Squared error of the picture that the prediction implies, weighted by clip(SNR, floor, cap).

    The cap is that of Min-SNR (Hang et al. 2023). The floor keeps the noisiest steps in the sum: they
    decide colours of fields and where things are placed, and next to nothing else asks for it.
    """
    noise = torch.randn_like(latents)
    steps = torch.randint(1000, (len(latents),), device=latents.device)
    kept = scheduler.alphas_cumprod.to(latents.device)[steps]
    snr = kept / (1 - kept)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, steps) if velocity else noise
    error = predict(scheduler.add_noise(latents, noise, steps), steps) - target
    # A squared error e of the noise is one of e / SNR of the picture, one of v is one of e / (SNR + 1).
    weight = snr.clamp(settings.snr_floor, settings.snr_cap) / (snr + velocity)
    loss: Tensor = (error.square().mean(dim=(1, 2, 3)) * weight).mean()
    return loss


def train_sd(settings: TrainSettings, out: Path, device: torch.device) -> None:
    """Train U-Net and text encoder together and write `shapes-sd`."""
    data = LatentData(settings, out, device)
    words = models.tokenizer()
    encoder, unet = models.text_encoder(words), models.unet()
    both = torch.nn.ModuleDict({"text_encoder": encoder, "unet": unet}).to(device)
    unet.to(memory_format=torch.channels_last)
    scheduler = models.sd_scheduler()
    tokens = words(data.captions, padding="max_length", return_tensors="pt").input_ids
    empty = words("", padding="max_length", return_tensors="pt").input_ids
    trainer = Trainer("shapes-sd", both, settings, out)

    def loss() -> Tensor:
        chosen, latents = data.batch(settings.batch)
        dropped = torch.rand(len(chosen)) < settings.drop_condition
        ids = torch.where(dropped[:, None], empty, tokens[chosen]).to(device)
        text = encoder(ids).last_hidden_state

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            output: Tensor = unet(noisy, steps, text, return_dict=False)[0]
            return output

        return noise_loss(predict, latents, scheduler, settings)

    trainer.fit(loss, settings.sd_steps, settings.rate)
    trained: Any = trainer.average.cpu()
    trained["unet"].to(memory_format=torch.contiguous_format)
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "shapes-sd" / "vae"),
        text_encoder=trained["text_encoder"],
        tokenizer=words,
        unet=trained["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out / "shapes-sd")


def train_dit(settings: TrainSettings, out: Path, device: torch.device) -> None:
    """Train the class-conditional transformer and write `shapes-dit`, with the same autoencoder.

    A transformer has to learn geometry from nothing; all its shapes are centred, which makes the
    difference between crooked crosses and straight ones within an hour of training.
    """
    data = LatentData(settings, out, device, place="centred")
    net = models.transformer().to(device)
    scheduler = models.dit_scheduler()
    trainer = Trainer("shapes-dit", net, settings, out)

    def loss() -> Tensor:
        chosen, latents = data.batch(settings.batch)
        # The model itself drops a tenth of the labels in training mode, per block; dropping them
        # here instead makes all blocks agree.
        dropped = torch.rand(len(chosen)) < settings.drop_condition
        labels = data.labels[chosen].masked_fill(dropped, models.DIT_CLASSES).to(device)

        def predict(noisy: Tensor, steps: Tensor) -> Tensor:
            output: Tensor = net(noisy, timestep=steps, class_labels=labels).sample
            return output

        return noise_loss(predict, latents, scheduler, settings)

    net.eval()
    trainer.fit(loss, settings.dit_steps, settings.rate)
    DiTPipeline(
        transformer=trainer.average.cpu(),
        vae=AutoencoderKL.from_pretrained(out / "shapes-sd" / "vae"),
        scheduler=scheduler,
    ).save_pretrained(out / "shapes-dit")
    # DiTPipeline reads the names of its classes from here, but does not write them.
    index = out / "shapes-dit" / "model_index.json"
    named = json.loads(index.read_text()) | {"id2label": dict(enumerate(class_names()))}
    index.write_text(json.dumps(named, indent=2) + "\n")


STAGES = {
    "judge": train_judge,
    "autoencoder": train_autoencoder,
    "sd": train_sd,
    "dit": train_dit,
}
# The last two need only the autoencoder. On a CPU they train side by side with half of the cores
# each: small matrices do not fill two cores, and together they finish in two thirds of the time.
SIDE_BY_SIDE = ("sd", "dit")


def train(stage: str, settings: TrainSettings, out: Path, device: str, threads: int) -> None:
    """Run one stage with its own seed, on `threads` cores."""
    torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    STAGES[stage](settings, out, torch.device(device))


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default=HERE, show_default=True)
@click.option(
    "--stage", "stages", type=click.Choice(list(STAGES)), multiple=True, help="Only these."
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--scale", default=1.0, help="Of all steps and data, to try the script out.")
def main(out: Path, stages: tuple[str, ...], device: str, scale: float) -> None:
    """Train everything in order and write it to OUT; under two hours on two cores."""
    settings = TrainSettings()
    counts = {
        name: max(64, round(value * scale))
        for name, value in dataclasses.asdict(settings).items()
        if name.endswith(("_steps", "_pictures"))
    }
    settings = dataclasses.replace(settings, **counts)
    cores = torch.get_num_threads()
    chosen = stages or tuple(STAGES)
    together = [s for s in chosen if s in SIDE_BY_SIDE and device == "cpu"]
    for stage in [s for s in chosen if s not in together]:
        train(stage, settings, out, device, cores)
    share = max(1, cores // max(1, len(together)))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(train, stage, settings, out, device, share) for stage in together]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
