"""`stepcarve search`: results, messages, exit codes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.core.origin import Origin
from search.core.subnet import SubNet
from search.core.versions import version_of
from tests.command_line import Places, ok, require_refused


def test_search_says_what_it_found_and_writes_it(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "subnet.json"
    printed = ok(
        "search", pipelines("shapes-sd"), "-o", out, "--method", "deepcache", "--steps", 10
    )
    assert "deepcache interval 5 branch 0: 10 calls in 10 steps, 2 distinct graphs" in printed
    as_json = json.loads(
        ok("search", pipelines("shapes-sd"), "-o", out, "--method", "full", "--steps", 4, "--json")
    )
    assert as_json["keep"] == 1.0


def test_search_and_inspect_say_which_part_of_the_sampler_is_made(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "subnet.json"
    found = ok(
        *("search", pipelines("shapes-sd"), "-o", out, "--method", "full", "--steps", 10),
        *("--start-step", 4, "--end-step", 9, "--add-noise"),
    )
    words = "; begins at step 4 from clean latents, to which it adds noise; ends before step 9"
    assert words in found
    assert words in ok("inspect", out)
    told = json.loads(ok("inspect", out, "--json"))
    assert (told["steps"], told["grid"]["inference_steps"]) == (5, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ("random",),
        pytest.param(("dip-go", "--iterations", "1"), marks=pytest.mark.slow),
    ],
)
def test_search_keeps_a_fraction_of_the_time(
    pipelines: Callable[[str], Path], tmp_path: Path, method: tuple[str, ...]
) -> None:
    """The second search reads the times of the first, so it finds the same."""
    latencies = tmp_path / "latencies.json"
    command = (
        "search", pipelines("three-levels"), "--method", *method, "--granularity", "branch",
        "--steps", 6, "--keep", 0.7, "--cost", "latency",
        "--latencies", latencies, "-o",
    )  # fmt: skip
    assert "of the time on onnxruntime (cpu)" in ok(*command, tmp_path / "first.json")
    measured = latencies.read_bytes()
    found = json.loads(ok(*command, tmp_path / "second.json", "--json"))
    assert found["latency"]["keep"] <= 0.72
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    assert latencies.read_bytes() == measured


BAD = """
search {no} -o {out} --method full: there is no directory
search {tmp} -o {out} --method full: has no model_index.json
search {sd} -o {out} --method magic: 'magic' is not one of 'carve', 'dip-go', 'laptop', 'deepcache'
search {sd} -o {out} --method full --granularity atom: 'atom' is not one of 'stage', 'branch', 'layer'
search {sd} -o {out} --method full --scheduler Magic: no scheduler 'Magic' for this pipeline;
search {sd} -o {out} --method full --scheduler FlowMatchEulerDiscreteScheduler: choose one
search {dit} -o {out} --method full --scheduler EulerDiscreteScheduler: which expects scaled noise
search {sd} -o {out} --method full --scheduler DPMSolverSDEScheduler: DPMSolverSDEScheduler
search {sd} -o {out} --method full --scheduler-option clip: 'clip' is not NAME=VALUE
search {sd} -o {out} --method full --steps 2000: DDIMScheduler refuses 2000 steps
search {sd} -o {out} --method full --steps 0: 0 is not in the range x>=1
search {sd} -o {out} --method random --seed -1: -1 is not in the range x>=0
search {sd} -o {out} --method full --height 32: needs both --height and --width
search {sd} -o {out} --method full --height 33 --width 33: choose
search {dit} -o {out} --method full --height 32 --width 32: makes pictures of 16 x 16 here
search {sd} -o {out} --method full --guidance nan: nan is not a finite number
search {dit} -o {out} --method deepcache: DeepCache needs a U-Net at branch granularity
search {sd} -o {out} --method deepcache --branch -1: -1 is not in the range x>=0
search {sd} -o {out} --method deepcache --branch 99: there is no DeepCache branch 99
search {sd} -o {out} --method deepcache --granularity stage: cannot use --granularity stage; choose branch
search {sd} -o {out} --method full --steps 4 --sigmas 9,1: --steps and --sigmas each set
search {sd} -o {out} --method full --timesteps 9,10: '9,10' is not a list of falling numbers
search {sd} -o {out} --method full --timesteps 9,1: DDIMScheduler takes no custom timeste
search {sd} -o {out} --method full --start-step 50: steps 50 to 50 were requested
search {sd} -o {out} --keep 0.3,0.3: '0.3,0.3' is not a list of fractions
search {sd} -o {out} --keep 2: '2' is not a list of fractions; give different numbers above 0
search {sd} -o {out} --pictures 1: 1 is not in the range x>=2
search {sd} -o {out} --iterations 0: 0 is not in the range x>=1
search {sd} -o {out} --resume: which is not given; give --run
search {sd} -o {out} --prompts /no/file: cannot read prompts from '/no/file'
search {sd} -o {out} --method full --device tpu: 'tpu' is not one of 'cpu', 'cuda'
search {sd} -o {out} --method random --cost time: 'time' is not one of 'macs', 'params', 'latency'
search {sd} -o {out} --method random --cost params: cannot use --cost params; choose macs or latency
search {sd} -o {out} --method random --cost latency --engine magic: 'magic' is not one of
search {sd} -o {out} --method random --cost latency --latencies {tmp}/notes.txt: is not JSON
""".strip().splitlines()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, case: str
) -> None:
    line, message = case.split(": ", 1)
    require_refused(line, message, bad_places)


UNUSED = {
    "full": (
        "seed",
        "keep",
        "adopt-sampler",
        "cost",
        "interval",
        "prompts",
        "device",
        "jobs",
        "run",
        "engine",
    ),
    "deepcache": ("keep", "iterations", "reference-steps", "variant", "parallel"),
    "fewer-steps": ("seed", "cost", "tuples"),
    "random": ("prompts", "latencies", "device", "resume"),
    "carve": ("latencies", "criterion", "branch", "fit-sampler"),
    "dip-go": ("pictures", "reference-steps", "rounds"),
    "laptop": ("pictures", "iterations"),
    "bk-sdm": ("keep", "seed", "cost"),
    "ssd-1b": ("keep", "variant"),
    "vega": ("cost",),
    "every-second": ("seed",),
    "adopt": ("keep", "cost", "pictures", "reference-steps"),
}
VALUES = {
    "seed": 7, "keep": 0.3, "cost": "macs", "interval": 2, "prompts": "{prompts}", "device": "cpu",
    "jobs": 2, "run": "{out}", "engine": "openvino", "iterations": 2, "reference-steps": 9,
    "variant": "tiny", "parallel": "local", "tuples": 2, "latencies": "{out}", "resume": "",
    "adopt-sampler": "{prompts}", "criterion": "picture", "branch": 1, "fit-sampler": "", "pictures": 4, "rounds": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "option"), [(method, name) for method, names in UNUSED.items() for name in names]
)
def test_an_option_that_the_method_does_not_use_is_refused(
    bad_places: Places, method: str, option: str
) -> None:
    prompts = bad_places.folder / "prompts.txt"
    prompts.write_text("a red circle")
    value = "" if option in ("variant",) and method == "bk-sdm" else VALUES[option]
    line = f"search {{sd}} -o {{out}} --method {method} --{option} {value}"
    places = replace(bad_places, named={**bad_places.named, "prompts": prompts})
    require_refused(line, f"the method '{method}' does not use --{option}", places)


def test_every_unused_option_is_named_with_what_would_use_it(bad_places: Places) -> None:
    line = "search {sd} -o {out} --method full --engine openvino --seed 7 --interval 2"
    message = (
        "does not use --engine (with --cost latency), --interval (for deepcache), --seed (for carve, "
        "dip-go, laptop, random, adopt; with --fit-sampler); leave out"
    )
    require_refused(line, message, bad_places)


def test_a_cost_that_whole_calls_do_not_depend_on_is_refused(bad_places: Places) -> None:
    line = "search {sd} -o {out} --no-thin --cost latency"
    message = "the method 'carve' does not use --cost with the other options given; leave out"
    require_refused(line, message, bad_places)


def test_what_another_option_brings_into_use_is_accepted(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    ok(
        *("search", pipelines("three-levels"), "-o", tmp_path / "x.json", "--method", "full"),
        *("--steps", 3, "--fit-sampler", "--seed", 1, "--reference-steps", 3),
    )
    origin = SubNet.load(tmp_path / "x.json").origin
    assert origin is not None
    assert (origin.method, origin.seed, origin.keep) == ("full", 1, None)
    assert origin.options == {"fit-sampler": True, "reference-steps": 3, "guidance-range": None}


def test_a_subnet_says_what_made_it(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    ok(
        *("search", pipelines("three-levels"), "-o", tmp_path / "x.json", "--method", "random"),
        *("--steps", 6, "--keep", 0.7, "--seed", 3),
    )
    subnet = SubNet.load(tmp_path / "x.json")
    version = version_of("stepcarve")
    assert subnet.origin is not None
    here = subnet.origin.environment
    assert subnet.origin == Origin("random", 0.7, 3, {"fit-sampler": False}, version, here)
    assert here["torch"] == version_of("torch")
    assert here["python"] == platform.python_version()
    told = json.loads(ok("inspect", tmp_path / "x.json", "--json"))
    assert told["origin"]["seed"] == 3
