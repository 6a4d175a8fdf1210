"""The command line as people use it: results, messages, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main

FRAMEWORKS = (
    "torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnx_ir", "onnxscript",
    "matplotlib", "numpy", "polygraphy",
)  # fmt: skip


def stepcarve(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ok(*arguments: object) -> str:
    result = stepcarve(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def made(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `subnet.json` and `bundle` of a small pipeline, and `dit` of another."""
    root = tmp_path_factory.mktemp("cli")
    for name, out, method in (
        ("three-levels", "bundle", "random"),
        ("shapes-dit", "dit", "random"),
    ):
        subnet = root / f"{out}.json"
        ok("search", pipelines(name), "-o", subnet, "--method", method, "--steps", 8)
        ok("export", pipelines(name), subnet, "-o", root / out)
    return root


def test_help_loads_no_framework() -> None:
    code = "import sys, cli; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & set(FRAMEWORKS)
    assert "\n    stepcarve search PIPELINE" in done.stdout, "the example keeps its lines"


def test_help_takes_less_than_a_third_of_importing_torch() -> None:
    def seconds(*command: str) -> float:
        def once() -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            return time.perf_counter() - started

        return min(once() for _ in range(3))

    assert seconds("-m", "cli", "--help") < seconds("-c", "import torch") / 3


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name not in ("out", "dtype"):
            assert parameter.help, parameter.name


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
    assert (told["steps"], told["course"]["inference_steps"]) == (5, 10)


@pytest.mark.parametrize(
    "method",
    [
        ("random",),
        pytest.param(("dip-go", "--recipe", "paper", "--iterations", "1"), marks=pytest.mark.slow),
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


def test_inspect_prints_the_contract(made: Path, tmp_path: Path) -> None:
    data = json.loads(ok("inspect", made / "bundle.json", "--json"))
    promised = {
        "steps", "blocks", "calls", "signatures", "macs_full", "macs_kept", "keep", "params_kept",
        "cache_bytes", "actions", "timesteps",
    }  # fmt: skip
    assert promised <= set(data)
    assert len(data["actions"]) == data["steps"] == len(data["timesteps"]) == 8
    assert {len(row) for row in data["actions"]} == {len(data["blocks"])}
    assert data["keep"] == pytest.approx(data["macs_kept"] / data["macs_full"])
    assert json.loads(ok("inspect", made / "bundle", "--json")) == data, "the bundle has its SubNet"


@pytest.fixture(scope="module")
def variants(
    pipelines: Callable[[str], Path], made: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The SubNet of `made / "bundle"` at its own size and a smaller one, three images each."""
    bundle = tmp_path_factory.mktemp("variants") / "bundle"
    printed = ok(
        "export", pipelines("three-levels"), made / "bundle.json", "-o", bundle,
        "--size", "24x24", "--size", "16x24", "--batch", 3, "--json",
    )  # fmt: skip
    assert json.loads(printed)["variants"] == [
        {"height": 24, "width": 24, "images": 3},
        {"height": 16, "width": 24, "images": 3},
    ]
    return bundle


def test_inspect_counts_the_batch_of_a_bundle(made: Path, variants: Path) -> None:
    one, three, smaller = (
        json.loads(ok("inspect", *words, "--json"))["cache_bytes"]
        for words in ((made / "bundle",), (variants,), (variants, "--height", 16))
    )
    assert three == 3 * one > smaller > 0


def test_a_variant_is_chosen_by_its_shape(variants: Path, tmp_path: Path) -> None:
    for height, words in ((24, ()), (16, ("--height", 16, "--num-images", 3))):
        printed = ok("run", variants, "--prompt", "red", *words, "-o", tmp_path / "x.png", "--json")
        images = json.loads(printed)["images"]
        assert len(images) == 3
        for path in images:
            with Image.open(path) as image:
                assert image.size == (24, height)
    assert "Parity holds" in ok("verify", variants, "--height", 16)


def test_build_loads_the_graphs_of_all_variants(made: Path, variants: Path) -> None:
    one, two = (
        json.loads(ok("build", each, "--json"))["graphs"] for each in (made / "bundle", variants)
    )
    assert one < two < 2 * one, "what variants share is built once"


def test_inspect_draws_the_grid(made: Path, tmp_path: Path) -> None:
    printed = ok("inspect", made / "bundle.json", "--image", tmp_path / "grid.png")
    rows = [line for line in printed.splitlines() if re.search("[█▒·]{8}$", line)]
    assert len(rows) == len(json.loads((made / "bundle.json").read_text())["topology"]["blocks"])
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > 300
    ok("inspect", made / "bundle", "--image", tmp_path / "grid.svg")
    assert "<svg" in (tmp_path / "grid.svg").read_text()


def test_run_writes_a_picture_and_the_latents(made: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 4, 12, 12)).astype(np.float32)
    np.save(tmp_path / "noise.npy", noise)
    for name in ("a", "b"):
        ok(
            "run", made / "bundle", "--engine", "onnxruntime", "--prompt", "a red circle",
            "--latents", tmp_path / "noise.npy", "--save-latents", tmp_path / f"{name}.npy",
            "-o", tmp_path / f"{name}.png",
        )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert np.load(tmp_path / "a.npy").shape == (1, 4, 12, 12)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.size, image.mode) == ((24, 24), "RGB")


def test_run_takes_classes_by_number_and_by_name(made: Path, tmp_path: Path) -> None:
    for label, name in (("1", "number"), ("red square", "name")):
        ok("run", made / "dit", "--label", label, "-o", tmp_path / f"{name}.png")
    with Image.open(tmp_path / "number.png") as one, Image.open(tmp_path / "name.png") as other:
        assert one.tobytes() == other.tobytes()


def test_run_makes_pictures_of_every_prompt_of_a_file(made: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n\nblue\n")
    told = json.loads(
        ok(
            "run",
            made / "bundle",
            "--prompts",
            tmp_path / "prompts.txt",
            "--num-images",
            2,
            "--seed",
            3,
            "-o",
            tmp_path / "x.png",
            "--json",
        )
    )
    assert [(run["prompt"], run["seed"]) for run in told["runs"]] == [
        ("red", 3), ("red", 4), ("blue", 3), ("blue", 4),
    ]  # fmt: skip
    assert told["images"] == [str(tmp_path / f"x-{number}.png") for number in range(4)]
    assert [len(run["call_seconds"]) for run in told["runs"]] == [told["calls"]] * 4
    printed = ok("run", made / "bundle", "--prompt", "blue", "--seed", 4, "-o", tmp_path / "y.png")
    assert re.match(rf"{re.escape(str(tmp_path / 'y.png'))}: \d+ calls, [\d.]+ s", printed)
    assert (tmp_path / "y.png").read_bytes() == (tmp_path / "x-3.png").read_bytes()


def test_verify_exits_0_and_writes_a_report(made: Path, tmp_path: Path) -> None:
    printed = ok("verify", made / "bundle", "--engine", "onnxruntime", "--report", tmp_path / "r")
    assert "Parity holds: onnxruntime on cpu, 8 calls" in printed
    written = {file.name for file in (tmp_path / "r").iterdir()}
    assert written == {"report.html", "parity.json", "junit.xml"}
    data = json.loads(ok("verify", made / "dit", "--json", "--prompt", "red square"))
    assert data["passed"] is True
    line = ("verify", made / "dit", "--json", "--all-variants", "--prompt", "red square")
    assert [each["passed"] for each in json.loads(ok(*line))] == [True]


def test_verify_exits_1_when_parity_fails(made: Path, tmp_path: Path) -> None:
    from tests.engines.test_parity import resign, variant

    bundle = shutil.copytree(made / "bundle", tmp_path / "bundle")
    sampler = variant(bundle)["sampler"]
    sampler["final"][1] += 0.5
    resign(bundle, sampler=sampler)
    result = stepcarve("verify", bundle, "--json", "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"]
    assert "<failure" in (tmp_path / "junit.xml").read_text()


def test_build_loads_every_graph(made: Path) -> None:
    assert "graphs load on onnxruntime (cpu)" in ok("build", made / "bundle")
    assert json.loads(ok("build", made / "bundle", "--json"))["graphs"] >= 1


def test_build_says_what_it_would_do_and_does_only_that(made: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(made / "dit", tmp_path / "dit")
    line = ("build", bundle, "--engine", "openvino")
    planned = json.loads(ok(*line, "--dry-run", "--json"))
    assert planned["seconds"] > 0 < planned["bytes"]
    assert {each["built"] for each in planned["graphs"]} == {False}
    assert not (bundle / "built").exists()
    assert "estimate" in ok(*line, "--dry-run")
    done = json.loads(ok(*line, "--json"))
    assert done["built"] == done["graphs"] == len(planned["graphs"])
    assert f"0 graphs built in 0.0 s, {done['graphs']} were there" in ok(*line)


def test_doctor_knows_what_works() -> None:
    findings = {f["name"]: f for f in json.loads(ok("doctor", "--json"))}
    assert findings["torch"]["works"]
    assert findings["onnxruntime on cpu"]["works"]
    assert "onnxruntime on cuda" in findings
    assert "onnxruntime on cpu" in ok("doctor")


BAD = [
    ("search {no} -o {out} --method full", "there is no directory"),
    ("search {tmp} -o {out} --method full", "has no model_index.json"),
    ("search {sd} -o {out} --method magic", "unknown method 'magic'; choose one of full"),
    ("search {sd} -o {out} --method full --granularity atom", "unknown granularity 'atom'"),
    (
        "search {sd} -o {out} --method full --scheduler Magic",
        "no scheduler 'Magic' for this pipeline;",
    ),
    (
        "search {sd} -o {out} --method full --scheduler FlowMatchEulerDiscreteScheduler",
        "choose one",
    ),
    ("search {dit} -o {out} --method full --scheduler EulerDiscreteScheduler", "wants its noise"),
    ("search {sd} -o {out} --method full --steps 2000", "DDIMScheduler refuses 2000 steps"),
    ("search {sd} -o {out} --method full --steps 0", "--steps is 0; give 1 or more"),
    ("search {sd} -o {out} --method random --seed -1", "--seed is -1; give 0 or more"),
    ("search {sd} -o {out} --method full --height 32", "needs both --height and --width"),
    ("search {sd} -o {out} --method full --height 33 --width 33", "choose"),
    (
        "search {dit} -o {out} --method full --height 32 --width 32",
        "makes pictures of 16 x 16 here",
    ),
    ("search {dit} -o {out} --method deepcache", "DeepCache needs a U-Net at branch granularity"),
    ("search {sd} -o {out} --method deepcache --branch -1", "there is no DeepCache branch -1"),
    (
        "search {sd} -o {out} --method full --scheduler DPMSolverSDEScheduler",
        "DPMSolverSDEScheduler",
    ),
    ("search {sd} -o {out} --method full --steps 4 --sigmas 9,1", "--steps and --sigmas are both"),
    ("search {sd} -o {out} --method full --timesteps 9,10", "give numbers that fall"),
    ("search {sd} -o {out} --method full --timesteps 9,1", "DDIMScheduler takes no custom timeste"),
    ("search {sd} -o {out} --method full --start-step 50", "steps 50 to 50 were asked for"),
    ("search {sd} -o {out} --method dip-go --recipe best", "unknown recipe 'best'; choose one of"),
    ("search {sd} -o {out} --method dip-go --keep 0.3,0.3", "--keep is '0.3,0.3'; give fractions"),
    ("search {sd} -o {out} --method dip-go --pictures 0", "--pictures is 0; give 2 or more"),
    ("search {sd} -o {out} --method dip-go --iterations 0", "--iterations is 0; give 1 or more"),
    ("search {sd} -o {out} --method dip-go --resume", "is in --run; give --run too"),
    (
        "search {sd} -o {out} --method dip-go --recipe paper --pictures 4",
        "--pictures is for the default recipe of dip-go",
    ),
    (
        "search {sd} -o {out} --method dip-go --recipe paper --reference-steps 12",
        "give --fit-sampler too",
    ),
    (
        "search {sd} -o {out} --method dip-go --no-fit-sampler",
        "the default recipe places its calls",
    ),
    (
        "search {sd} -o {out} --method dip-go --prompts /no/file",
        "cannot read prompts from '/no/file'",
    ),
    ("search {sd} -o {out} --method random --keep 2", "--keep is '2'; give fractions above 0"),
    (
        "search {sd} -o {out} --method deepcache --keep 0.3",
        "'deepcache' does not look at --keep, which is for fewer-steps, random, dip-go, laptop, bk-sdm, every-second; leave",
    ),
    ("search {sd} -o {out} --method random --resume", "does not look at --resume"),
    ("search {sd} -o {out} --method full --device tpu", "unknown device 'tpu'"),
    ("search {sd} -o {out} --method random --cost time", "unknown cost 'time'; choose one of macs"),
    (
        "search {sd} -o {out} --method full --cost latency",
        "the method 'full' does not choose blocks",
    ),
    (
        "search {sd} -o {out} --method dip-go --cost latency",
        "the default recipe of dip-go does not choose blocks by their cost",
    ),
    (
        "search {sd} -o {out} --method random --cost latency --engine magic",
        "unknown engine 'magic'",
    ),
    (
        "search {sd} -o {out} --method random --cost latency --latencies {tmp}/notes.txt",
        "is not JSON",
    ),
    (
        "search {sd} -o {out} --method random --latencies {out}",
        "--latencies keeps measured times, but --cost is macs",
    ),
    ("export {dit} {subnet} -o {out}", "the SubNet was made for denoiser 'UNet2DConditionModel'"),
    ("export {truncated} {subnet} -o {out}", "cannot read the weights"),
    ("export {sd} {no} -o {out}", "cannot read the SubNet"),
    ("export {sd} {tmp}/notes.txt -o {out}", "is not JSON"),
    ("export {sd} {subnet} -o {out} --size 24", "the size '24' is not HEIGHTxWIDTH; give pixels"),
    ("export {sd} {subnet} -o {out} --size 25x24", "choose"),
    ("export {sd} {subnet} -o {out} --batch 1 --batch 0", "the batch is 0; give 1 or more"),
    (
        "run {bundle} --prompt x --height 16 -o {out}.png",
        "has no variant for height 16; it makes 24 x 24 with 1 image; take one of these, or",
    ),
    (
        "run {bundle} --prompts {subnet} --prompt x -o {out}.png",
        "prompts are given twice; leave out --prompts",
    ),
    (
        "run {bundle} --prompts {out} -o {out}.png",
        "cannot read prompts from",
    ),
    ("bench {bundle} -o {out} --repeats 0", "--repeats is 0; give 1 or more"),
    ("bench {bundle} -o {out} --engine ,", "no engine is named"),
    ("bench {bundle} -o {out} --against jax", "cannot compare with ['jax']"),
    ("inspect {subnet} --num-images 2", "a SubNet has one shape; give --height"),
    ("run {changed} --prompt x -o {out}.png", "is not the file that was exported: its SHA-256"),
    (
        "run {bundle} --engine magic --prompt x -o {out}.png",
        "unknown engine 'magic'; choose one of",
    ),
    ("run {bundle} --label 3 -o {out}.png", "shows texts; give --prompt, without --label"),
    (
        "run {bundle} --prompt x --latents {tmp}/notes.npy -o {out}.png",
        "is not a .npy file of numbers",
    ),
    (
        "run {bundle} --prompt x --latents {tmp}/empty.npy -o {out}.png",
        "is not a .npy file of numbers",
    ),
    (
        "run {bundle} --prompt x --latents {tmp}/none.npy -o {out}.png",
        "give latents that run --save-latents has written",
    ),
    ("run {bundle} --prompt x -o {tmp}/x.jpg", "give one that ends in .png"),
    ("run {classes} --label 5000 -o {out}.png", "no class '5000'; give a number from 0 to 23"),
    ("run {classes} --label 99999999999999999999 -o {out}.png", "give a number from 0 to 23"),
    ("run {classes} --label 1 --negative red -o {out}.png", "takes no negative prompt"),
    ("run {bundle} --prompt x --device cuda -o {out}.png", "use --device cpu"),
    ("run {no} --prompt x -o {out}.png", "is not a bundle"),
    ("build {bundle} --engine magic", "unknown engine 'magic'"),
    ("build {bundle} --engine openvino --device cuda", "openvino runs on cpu"),
    ("build {bundle} --engine onnxruntime --workspace 9", "does not take --workspace"),
    ("build {bundle} --jobs 0", "--jobs is 0; give 1 or more"),
    ("build {bundle} --parallel moon", "choose one of local, ray, dask"),
    ("verify {bundle} {no}", "is not a bundle"),
    ("verify {bundle} {classes} --junit {tmp}/x.xml", "but 2 variants are to be verified"),
    ("verify {bundle} --engine magic", "unknown engine 'magic'"),
    ("verify {bundle} --engine ,", "no engine is named"),
    ("verify {bundle} --pipeline {no}", "there is no directory"),
    ("inspect {tmp}", "is not a bundle"),
    ("inspect {subnet} --image {tmp}/x.bmp", "give a file that ends in .png, .svg or .pdf"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    pipelines: Callable[[str], Path], made: Path, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "notes.txt").write_text("not a SubNet")
    (tmp_path / "notes.npy").write_text("not numbers")
    (tmp_path / "empty.npy").touch()
    places = {
        "no": tmp_path / "nowhere",
        "tmp": tmp_path,
        "out": tmp_path / "out",
        "sd": pipelines("three-levels"),
        "dit": pipelines("learned-variance"),
        "subnet": made / "bundle.json",
        "bundle": made / "bundle",
        "classes": made / "dit",
    }
    if "{truncated}" in line:
        places["truncated"] = shutil.copytree(places["sd"], tmp_path / "truncated")
        weights = places["truncated"] / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    if "{changed}" in line:
        places["changed"] = shutil.copytree(places["bundle"], tmp_path / "changed")
        with (places["changed"] / "weights.bin").open("r+b") as file:
            file.write(b"\1\2\3")
    before = sorted(tmp_path.rglob("*"))
    result = stepcarve(*(word.format(**places) for word in line.split()))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_cuda_where_there_is_none_is_refused(
    made: Path, pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for line in (
        ("run", made / "bundle", "--prompt", "x", "-o", tmp_path / "x.png", "--device", "cuda"),
        ("verify", made / "bundle", "--device", "cuda"),
        (
            "search",
            pipelines("three-levels"),
            "-o",
            tmp_path / "x",
            "--method",
            "full",
            "--device",
            "cuda",
        ),
    ):
        result = stepcarve(*line)
        assert result.exit_code == 2, line
        assert "--device cpu" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    result = stepcarve("inspect", tmp_path / "nowhere", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
