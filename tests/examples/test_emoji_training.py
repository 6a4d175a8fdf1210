"""Training of the emoji pipeline: exact, and the same numbers as diffusers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import nn

from examples.emoji import autoencoding, distil, flow, judging, models, precision, text
from examples.emoji.artwork import Artwork, read_artwork
from examples.emoji.export import export_pipeline, write_record
from examples.emoji.flow import Flow
from examples.emoji.trainer import Course, Trainer, load_average
from examples.emoji.warm import begin_from
from tests.examples.emoji_packages import write_packages

SHORT = Course(rate=1e-3, steps=2, warmup=1)


@pytest.fixture(scope="module")
def artwork(tmp_path_factory: pytest.TempPathFactory) -> Artwork:
    return read_artwork(write_packages(tmp_path_factory.mktemp("packages")))


@pytest.fixture(scope="module")
def run(artwork: Artwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything was trained for two steps."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for module in (text, flow):
            patch.setattr(module, "COURSE", SHORT)
        patch.setattr(autoencoding, "WHOLE", SHORT)
        patch.setattr(flow, "SKETCHES", 4)
        patch.setattr(flow, "BATCH", 4)
        for stage in (autoencoding.train_autoencoder, flow.encode_latents, text.train_text):
            stage(artwork, folder, minutes=None)
        flow.train_flow(artwork, folder, minutes=None)
    return folder


def small_trainer(folder: Path, course: Course) -> tuple[Trainer, list[float]]:
    """A trainer of a little net with every kind of parameter that ours have, and what it is fed."""
    torch.manual_seed(0)
    inner = nn.ModuleDict({"transformer_blocks": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))})
    net = nn.Sequential(inner["transformer_blocks"], nn.LayerNorm(4))
    trainer = Trainer("small", nn.ModuleDict({"a": inner, "b": net}), course, folder, seed=1)
    return trainer, []


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_training_is_the_training(tmp_path: Path, muon: bool) -> None:
    course = Course(rate=0.05, steps=7, warmup=3, cooldown=3, average=0.5, muon=muon)

    def train(folder: Path, steps: int) -> Trainer:
        trainer, _ = small_trainer(folder, course)
        while trainer.step < steps:
            noise = torch.randn(3, 4) + torch.from_numpy(trainer.rng.normal(size=(3, 4))).float()
            trainer.advance(
                lambda noise=noise: (trainer.module["b"](noise) - noise).square().mean()
            )
        trainer.save()
        return trainer

    whole = train(tmp_path / "whole", 7)
    train(tmp_path / "parts", 4)
    torch.manual_seed(99)
    parts = train(tmp_path / "parts", 7)
    for ours, theirs in zip(parts.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(parts.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other, _ = small_trainer(tmp_path / "other", course)
    assert not torch.equal(next(other.module.parameters()), next(whole.module.parameters()))


def test_the_rate_climbs_stays_and_falls() -> None:
    course = Course(rate=1.0, steps=10, warmup=2, cooldown=4)
    assert [course.rate_at(step) for step in (1, 2, 6, 7, 8, 10)] == [0.5, 1, 1, 1, 0.75, 0.25]


@pytest.mark.parametrize("count", [1, 256])
def test_one_counted_token_does_what_so_many_zeros_do(artwork: Artwork, count: int) -> None:
    torch.manual_seed(0)
    tokens = text.make_tokenizer(artwork)
    net = Flow(tokens).eval()
    for parameter in net.transformer.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    noisy, noise = torch.randn(2, 8, 16, 16), torch.rand(2)
    ids = tokens(["flat red apple on red"] * 2, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours = net(noisy, noise, ids, torch.full((2,), float(count)))
        one = net(noisy, noise, ids, torch.ones(2))
        features, pooled = net.text(ids)
        net.transformer.set_attn_processor(JointAttnProcessor2_0())
        theirs = net.transformer(
            hidden_states=noisy,
            encoder_hidden_states=torch.cat([features, torch.zeros(2, count, 256)], dim=1),
            pooled_projections=pooled,
            timestep=noise * 1000,
            return_dict=False,
        )[0]
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    assert count == 1 or (one - theirs).norm() > 2e-2 * theirs.norm()


def test_latents_have_mean_0_and_deviation_1_and_decode(artwork: Artwork, run: Path) -> None:
    latents = flow.read_latents(run)
    assert latents.values.shape == (6 * 2 * 7, 8, 16, 16)
    assert abs(latents.values.float().mean()) < 0.01
    assert abs(latents.values.float().std() - 1) < 0.01


def test_latents_move_as_their_pictures_do() -> None:
    latents = torch.zeros(200, 8, 16, 16)
    latents[:, :, 5, 5] = 1
    torch.manual_seed(0)
    found = {tuple(place) for place in flow.moved(latents)[:, 0].nonzero()[:, 1:].tolist()}
    assert found == {(row, column) for row in (4, 5, 6) for column in (4, 5, 6)}
    assert torch.equal(flow.moved(torch.ones(2, 8, 16, 16)), torch.ones(2, 8, 16, 16))


def test_the_exported_pipeline_opens_plainly_and_computes_what_was_trained(
    artwork: Artwork, run: Path, tmp_path: Path
) -> None:
    export_pipeline(artwork, run, tmp_path, stage="flow", scheduler=models.scheduler())
    pipe = StableDiffusion3Pipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    seen: list[torch.Tensor] = []
    noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))

    def note(
        _pipe: object, _step: int, _time: object, values: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        seen.append(values["latents"])
        return values

    pipe(
        "flat red apple on red",
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=noise,
        callback_on_step_end=note,
    )
    net = load_average("flow", Flow(text.make_tokenizer(artwork)), run).eval()
    tokens = pipe.tokenizer(
        ["", "flat red apple on red"], padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        without, with_caption = net(
            noise.repeat(2, 1, 1, 1), torch.ones(2), tokens.input_ids, torch.full((2,), 256.0)
        ).chunk(2)
    step = pipe.scheduler.sigmas[1] - pipe.scheduler.sigmas[0]
    ours = noise + step * (without + 3 * (with_caption - without))
    assert (seen[0] - ours).norm() < 5e-3 * (step * with_caption).norm()


def test_a_warm_start_has_the_weights_of_the_pipeline(
    artwork: Artwork, run: Path, tmp_path: Path
) -> None:
    export_pipeline(artwork, run, tmp_path / "pipeline", stage="flow", scheduler=models.scheduler())
    begin_from(tmp_path / "pipeline", artwork, tmp_path / "warm")
    tokens = text.make_tokenizer(artwork)
    trained = load_average("flow", Flow(tokens), run).state_dict()
    begun = load_average(flow.START, Flow(tokens), tmp_path / "warm").state_dict()
    for name, value in trained.items():
        if not name.startswith("sketch."):
            assert torch.equal(begun[name], value.half().float()), name
    with pytest.raises(ValueError, match="holds checkpoints"):
        begin_from(tmp_path / "pipeline", artwork, tmp_path / "warm")


def test_a_run_that_began_from_weights_adds_to_the_record_and_has_no_sketches(
    artwork: Artwork, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm, training = tmp_path / "warm", tmp_path / "training"
    write_record(run, training)
    export_pipeline(artwork, run, tmp_path / "pipeline", stage="flow", scheduler=models.scheduler())
    begin_from(tmp_path / "pipeline", artwork, warm)
    flow.encode_latents(artwork, warm, minutes=None)
    monkeypatch.setattr(flow, "sketch_loss", None)
    monkeypatch.setattr(flow, "BATCH", 4)
    monkeypatch.setattr(flow, "COURSE", Course(rate=1e-4, steps=2))
    flow.train_flow(artwork, warm, minutes=None)
    write_record(warm, training)
    record = json.loads((training / "run.json").read_text())
    assert record["flow-on"]["steps"] == 2
    assert record["flow"]["steps"] == 2


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_products_are_in_bfloat16_where_it_is_faster(
    faster: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda dtype: 1 if dtype is faster else 2)
    precision.bfloat16_is_faster.cache_clear()
    try:
        with precision.products():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is faster
    finally:
        precision.bfloat16_is_faster.cache_clear()


def test_a_cooldown_leaves_the_flow_as_it_is(
    artwork: Artwork, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SKETCHES", "BATCH"):
        monkeypatch.setattr(flow, name, 4)
    before = (run / "flow.safetensors").read_bytes()
    flow.cool_down(artwork, run, minutes=None, steps=2)
    assert (run / "flow.safetensors").read_bytes() == before
    tokens = text.make_tokenizer(artwork)
    flowed, cooled = (load_average(name, Flow(tokens), run) for name in ("flow", "cooled"))
    assert not torch.equal(flowed.transformer.proj_out.weight, cooled.transformer.proj_out.weight)


def test_the_students_levels_are_those_of_its_sampler() -> None:
    scheduler = models.student_scheduler()
    scheduler.set_timesteps(4)
    assert torch.equal(distil.levels(4), scheduler.sigmas)
    assert distil.levels(4)[-2] == pytest.approx(models.LAST_LEVEL)
    plain = FlowMatchEulerDiscreteScheduler(shift=models.SHIFT)
    plain.set_timesteps(4)
    assert plain.sigmas[-2] < 0.01


def test_a_student_learns_the_chords(
    artwork: Artwork, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distil, "PATHS_PER_FILE", 4)
    monkeypatch.setattr(distil, "FINER", 1)
    monkeypatch.setattr(distil, "BATCH", 4)
    monkeypatch.setattr(distil, "COURSE", replace(SHORT, rate=1e-4))
    distil.sample_paths(artwork, run, minutes=None, steps=4, files=1)
    distil.train_student(artwork, run, minutes=None, steps=4, files=1)
    assert (run / "student-4.safetensors").is_file()


def test_a_chord_leads_from_one_point_to_the_next() -> None:
    levels = distil.levels(4)
    points = torch.randn(2, 5, 8, 16, 16)
    chords = (points[:, 1:] - points[:, :-1]) / (levels[1:] - levels[:-1])[:, None, None, None]

    def exact(
        at: torch.Tensor, noise: torch.Tensor, ids: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        found = [int((levels == each).nonzero()) for each in noise]
        return torch.stack([chords[n, step] for n, step in enumerate(found)])

    loss = distil.chord_loss(exact, torch.zeros(2, 16), points, torch.tensor([1, 3]), levels)  # type: ignore[arg-type]
    assert loss < 1e-9


def test_the_judge_is_trained_on_what_it_is_asked(
    artwork: Artwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "COURSE", SHORT)
    judging.train_judge(artwork, tmp_path, minutes=None)
    net = load_average("judge", models.JudgeNet(judging.vocabulary(artwork)), tmp_path)
    found = net(torch.zeros(2, 3, 64, 64))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "features": (2, 128),
        "emoji": (2, 6),
        "style": (2, 2),
        "background": (2, 8),
    }
    assert np.isfinite(found["features"].detach().numpy()).all()
