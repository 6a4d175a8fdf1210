"""Which steps do the same: loops small enough to see it, and pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from benchmarks.families import image, video
from search.core.errors import SearchError
from search.core.groups import Groups
from search.model.family import Request
from search.model.opening import open_pipeline
from search.model.steps import MOST, groups_of_steps

TIMES = (900.0, 700.0, 500.0, 300.0)


class Net(nn.Module):
    """A network that is told the time and a text."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, scale: float = 1.0) -> Tensor:
        """Anything of the latents' shape."""
        return self.linear(sample) * scale + timestep + text


@dataclass
class At:
    """What there is at a step: its number, timestep, latents, texts with and without prompt, scale."""

    n: int
    t: Tensor
    x: Tensor
    c: tuple[Tensor, Tensor]
    s: Any


@dataclass
class Pipe:
    """A pipeline whose steps predict what `predict(pipe, at)` does."""

    predict: Callable[[Pipe, At], Tensor]

    def __post_init__(self) -> None:
        self.scheduler: Any = FlowMatchEulerDiscreteScheduler()
        self.unet, self.other = Net(), Net()
        self.kept: list[Tensor] = []

    _execution_device = torch.device("cpu")

    @property
    def components(self) -> dict[str, Any]:
        """Its parts."""
        return {"unet": self.unet, "other": self.other, "scheduler": self.scheduler}

    def encode_prompt(self) -> tuple[Tensor, Tensor]:
        """With and without the prompt."""
        return torch.zeros(1, 4), torch.zeros(1, 4)

    def prepare_latents(self) -> Tensor:
        """Noise."""
        return randn_tensor((1, 4))

    def __call__(self, guidance: Any) -> None:
        """Run the loop."""
        texts, latents = self.encode_prompt(), self.prepare_latents()
        times = self.scheduler.timesteps
        for number, time in enumerate(times):
            prediction = self.predict(self, At(number, time, latents, texts, guidance))
            latents = self.scheduler.step(prediction, time, latents, return_dict=False)[0]


def groups(
    predict: Callable[[Pipe, At], Tensor], times: tuple[float, ...] = TIMES
) -> Groups | None:
    pipe = Pipe(predict)
    pipeline: Any = SimpleNamespace(
        pipe=pipe,
        family=SimpleNamespace(
            component="unet", call=lambda pipe, request, _: pipe(request.guidance)
        ),
        networks={"unet": pipe.unet, "other": pipe.other},
    )
    return groups_of_steps(pipeline, Request(("",), len(times), 4.0), times)


def guided(net: Net, at: At, scale: Any = None) -> Tensor:
    """The usual."""
    with_text, without = (net(at.x, at.t, text) for text in at.c)
    return without + (at.s if scale is None else scale) * (with_text - without)


def test_steps_that_do_the_same_by_calls_of_the_denoiser_have_no_groups() -> None:
    assert groups(lambda p, a: guided(p.unet, a)) is None
    assert groups(lambda p, a: p.unet(a.x, 1 - a.t / 1000, a.c[0])) is None


def test_noise_levels_of_its_own_step_make_no_groups() -> None:
    assert groups(lambda p, a: guided(p.unet, a) * p.scheduler.sigmas[a.n]) is None


@pytest.mark.parametrize("times", [TIMES, TIMES[:2]])
def test_the_noise_level_of_the_next_step_is_known_but_at_the_last(
    times: tuple[float, ...],
) -> None:
    found = groups(lambda p, a: p.unet(a.x, p.scheduler.sigmas[a.n + 1], a.c[0]), times)
    assert found is not None
    assert found.of_steps == (*[0] * (len(times) - 1), 1)


def test_two_next_steps_of_one_timestep_are_refused() -> None:
    with pytest.raises(SearchError, match="reads the timestep of the next step"):
        groups(lambda p, a: p.unet(a.x, p.scheduler.sigmas[a.n + 1], a.c[0]), (9.0, 5.0, 5.0, 3.0))


def test_another_network_by_timestep() -> None:
    found = groups(lambda p, a: guided(p.unet if a.t > 600 else p.other, a))
    assert found is not None
    assert found.of_steps == (0, 0, 1, 1)
    assert found.calls == (("unet/cond", "unet/uncond"), ("other/cond", "other/uncond"))


def test_guidance_in_part_of_the_steps_shares_its_first_call() -> None:
    def predict(p: Pipe, a: At) -> Tensor:
        return guided(p.unet, a) if a.n < 3 else p.unet(a.x, a.t, a.c[0])

    found = groups(predict)
    assert found is not None
    assert found.of_steps == (0, 0, 0, 1)
    assert found.calls == (("cond", "uncond"), ("cond",))


def test_a_batch_of_both_halves_is_another_call_than_one_half() -> None:
    def predict(p: Pipe, a: At) -> Tensor:
        both = p.unet(torch.cat([a.x, a.x]), a.t, torch.cat(a.c))
        return both[:1] + a.s * (both[1:] - both[:1]) if a.n < 3 else p.unet(a.x, a.t, a.c[0])

    found = groups(predict)
    assert found is not None
    assert len(set(found.streams)) == 2


def test_a_scale_of_its_own_at_each_step() -> None:
    scales = torch.tensor([7.0, 7.0, 3.0, 3.0])
    found = groups(lambda p, a: guided(p.unet, a, scales[a.n]))
    assert found is not None
    assert found.of_steps == (0, 0, 1, 1)
    assert found.calls == (("cond", "uncond"),) * 2


def test_what_a_network_is_told_beside_tensors_counts() -> None:
    found = groups(lambda p, a: p.unet(a.x, a.t, a.c[0], scale=1.0 if a.n < 2 else 0.0))
    assert found is not None
    assert found.of_steps == (0, 0, 1, 1)


def test_what_is_not_in_the_prediction_does_not_count() -> None:
    def predict(p: Pipe, a: At) -> Tensor:
        p.kept.append(a.x * a.n)
        return p.unet(a.x, a.t, a.c[0])

    assert groups(predict) is None


def test_two_networks_at_every_step_are_one_group() -> None:
    found = groups(lambda p, a: p.unet(a.x, a.t, a.c[0]) - p.other(a.x, a.t, a.c[1]))
    assert found is not None
    assert found.of_steps == (0, 0, 0, 0)
    assert found.calls == (("unet", "other"),)


@pytest.mark.parametrize("kept", ["prediction", "latents"])
def test_a_loop_with_a_memory_is_refused(kept: str) -> None:
    def predict(p: Pipe, a: At) -> Tensor:
        made = p.unet(a.x, a.t, a.c[0])
        p.kept.append(made if kept == "prediction" else a.x)
        return made + p.kept[0]

    with pytest.raises(
        SearchError, match="carries a value other than the latents from step 0 to step 1"
    ):
        groups(predict)


def test_a_timestep_that_is_read_as_a_number_is_refused() -> None:
    times = tuple(float(time) for time in range(900, 900 - MOST - 1, -1))
    with pytest.raises(SearchError, match=f"in {MOST + 1} ways at {MOST + 1} steps"):
        groups(lambda p, a: p.unet(a.x, torch.full((1,), a.t.item()), a.c[0]), times)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toys", "build", "call", "expected"),
    [
        (video.TOYS, "wan_two_experts", {}, (0, 0, 1, 1)),
        (video.TOYS, "wan", {}, None),
        (
            image.TOYS,
            "stable_diffusion_3",
            {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 0.6},
            (0, 1, 1, 0),
        ),
    ],
)
def test_pipelines_of_diffusers(
    tmp_path: Path, toys: Any, build: str, call: dict[str, Any], expected: Any
) -> None:
    toy = next(each for each in toys if getattr(each.build, "__name__", "") == build)
    toy.build().save_pretrained(tmp_path)
    pipeline = open_pipeline(tmp_path, weights=False)
    sizes = ("height", "width", "num_frames")
    pipeline.use_call({k: v for k, v in toy.call.items() if k not in sizes} | call)
    size = tuple(toy.call[name] for name in sizes if name in toy.call)
    request = Request(("",), 4, toy.guidance).sized(size)
    found = groups_of_steps(pipeline, request, (999.0, 900.0, 500.0, 100.0))
    assert (None if found is None else found.of_steps) == expected
