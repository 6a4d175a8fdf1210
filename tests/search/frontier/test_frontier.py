"""`stepcarve frontier`, from the command line to the files."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from examples.shapes.pictures import draw
from search.core.quantisation import Layer, Quantisation, digest, scheme_named
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.frontier import write
from search.frontier.distance import Baseline, Distance
from search.frontier.judge import Judge
from search.frontier.points import Frontier, Point
from search.frontier.quality import Quality
from search.frontier.rivals.holding import HOLD
from search.frontier.settings import FrontierSettings
from search.frontier.table import figures_of, full_attributes, headings
from search.frontier.write import write_frontier
from tests.toys import chain, subnet

JUDGE = Path(__file__).parents[3] / "examples" / "shapes" / "judge.onnx"
BASELINES = ("fewer-steps", "hold", "step-mask")
METHODS = ("carve", "bns", *BASELINES, "guidance-interval", "fora")


def frontier(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["frontier", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def made(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series of every kind, as small as it goes; FORA is too dear for a U-Net."""
    root = tmp_path_factory.mktemp("frontier")
    (root / "search.txt").write_text("a red circle\na blue square\n")
    (root / "judge.txt").write_text("a green cross\n")
    result = frontier(
        pipelines("three-levels"), "-o", root / "out", "--steps", 6, "--guidance", 3,
        "--keep", "0.5", "--count", 3, "--iterations", 1, "--pictures", 4, "--random", 2,
        "--methods", ",".join(METHODS), "--fine-steps", 12,
        "--prompts", root / "search.txt", "--held-out", root / "judge.txt",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (root / "printed.txt").write_text(result.stdout)
    return root


@pytest.fixture(scope="module")
def record(made: Path) -> dict[str, object]:
    data: dict[str, object] = json.loads((made / "out" / "frontier.json").read_text())
    return data


def test_every_file_is_written(made: Path) -> None:
    names = {path.name for path in (made / "out").iterdir()}
    assert names == {"frontier.json", "frontier.csv", "frontier.png", "frontier.html", "subnets"}
    assert not [path for path in made.iterdir() if path.name.startswith(".")]
    with Image.open(made / "out" / "frontier.png") as image:
        assert image.width > 900


def test_every_method_is_there_plain_and_fitted(record: dict[str, list[dict[str, object]]]) -> None:
    found = {(point["method"], point["fitted"]) for point in record["points"]}
    expected = {(name, is_fitted) for name in BASELINES for is_fitted in (False, True)}
    assert found == {*expected, ("carve", True), ("bns", True), ("guidance-interval", False)}


def test_every_point_has_its_subnet_and_the_cost_of_it(
    made: Path, record: dict[str, list[dict[str, object]]]
) -> None:
    points = [point for point in record["points"] if point["method"] != "guidance-interval"]
    assert len(points) == len(record["points"]) - 1, "no SubNet says what that one does"
    files = {str(point["subnet"]) for point in points}
    assert len(files) == len(points)
    assert {f"subnets/{p.name}" for p in (made / "out" / "subnets").iterdir()} == files
    for point in points:
        loaded = SubNet.load(made / "out" / str(point["subnet"]))
        assert keep_of(loaded) == pytest.approx(point["cost"])
        assert float(str(point["cost"])) <= 0.5 + 1e-9


def test_the_record_says_what_was_done(made: Path, record: dict[str, dict[str, object]]) -> None:
    assert record["schema"] == 2
    assert record["kind"] == "stepcarve-frontier"
    assert record["settings"]["prompts"] == ["a red circle", "a blue square"]
    assert record["settings"]["held_out"] == ["a green cross"]
    assert record["settings"]["random"] == 2
    assert (record["settings"]["call"], record["settings"]["split_streams"]) == ({}, False)
    assert record["settings"]["fine_steps"] == 12
    assert record["full"]["distances"]["full"]["mean"] == 0
    assert record["full"]["distances"]["fine"]["mean"] > 0
    assert [str(note).split()[0] for note in record["notes"]] == ["fora"]


def test_the_ranking_and_its_winners_are_those_of_the_points(
    record: dict[str, list[dict[str, Any]]],
) -> None:
    points = {point["name"]: point for point in record["points"]}
    (comparison,) = record["comparisons"]
    ranking = comparison["ranking"]
    means = [points[each["name"]]["distances"]["fine"]["mean"] for each in ranking]
    assert means == sorted(means)
    assert {each["name"].split()[0] for each in ranking} == set(METHODS) - {"fora"}
    ours = points["carve keep 0.5"]["distances"]
    for each in ranking:
        if not each["name"].startswith("carve"):
            for target, ratio in each["carve_over_this"].items():
                own = points[each["name"]]["distances"][target]["mean"]
                assert ratio == pytest.approx(ours[target]["mean"] / own)
    assert len(comparison["verdicts"]) == 4
    for verdict in comparison["verdicts"]:
        values = {
            name: points[name]["distances"][verdict["target"]][verdict["statistic"]]
            for name in (each["name"] for each in ranking)
        }
        assert values[verdict["winner"]] == min(values.values())
        assert verdict["winner"] not in verdict["not_told_apart"]


def test_every_point_has_the_errors_of_all_pictures(
    record: dict[str, list[dict[str, Any]]],
) -> None:
    for point in record["points"]:
        for distance in point["distances"].values():
            assert len(distance["errors"]) == 3
            assert distance["mean"] == pytest.approx(np.mean(distance["errors"]), rel=1e-3)
            low, high = distance["mean_interval"]
            assert low <= distance["mean"] <= high


def test_the_table_has_the_points(made: Path, record: dict[str, list[dict[str, Any]]]) -> None:
    with (made / "out" / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["subnet"] for row in rows] == [point["subnet"] or "" for point in record["points"]]
    for row, point in zip(rows, record["points"], strict=True):
        assert float(row["fine_mean"]) == point["distances"]["fine"]["mean"]
        assert row["fitted"] == str(point["fitted"]).lower()


def test_the_page_stands_alone(made: Path) -> None:
    page = (made / "out" / "frontier.html").read_text()
    assert "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "mean distance to the fine sampler" in page
    assert "<script" not in page


def test_the_terminal_shows_ratios_and_winners(made: Path) -> None:
    printed = (made / "printed.txt").read_text()
    assert "at 0.5 of the full cost, or less" in printed
    assert re.search(r"\d\.\d\d x", printed)
    for what in ("mean distance to the full", "median distance to the fine"):
        line = next(line for line in printed.splitlines() if what in line)
        assert " wins" in line
    assert f"page: {made / 'out' / 'frontier.html'}" in printed


def test_a_judge_adds_accuracy_and_frechet_distance(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    """To the full sampler's pictures from other noise, and to real ones."""
    pictures = draw(64, np.random.default_rng(1), place="centred")
    np.save(tmp_path / "real.npy", Judge(JUDGE).read(pictures.pixels).features)
    found = {}
    for name, extra in (("a", ()), ("b", ("--features", tmp_path / "real.npy"))):
        result = frontier(
            pipelines("shapes-dit"), "-o", tmp_path / name, "--steps", 2, "--guidance", 1.5,
            "--keep", "0.5", "--count", 2, "--methods", "deepcache,fewer-steps", "--judge", JUDGE,
            "--pictures", 4, "--fine-steps", 4,
            *extra, "--json",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert result.stdout == (tmp_path / name / "frontier.json").read_text()
        found[name] = json.loads(result.stdout)
    assert found["a"]["frechet_to"] == "the full sampler, other noise"
    assert found["b"]["frechet_to"] == "real pictures"
    for each in found.values():
        assert set(each["full"]["accuracy"]) == {"colour", "shape"}
        assert each["full"]["frechet"] > 1, "other pictures are not the same pictures"
        (note,) = each["notes"]
        assert note.startswith("deepcache is left out: DeepCache needs a U-Net")
    assert found["a"]["full"]["frechet"] != found["b"]["full"]["frechet"]


@pytest.mark.slow
def test_with_split_streams_the_half_without_the_prompt_can_be_extrapolated(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    found = {}
    for name, extra in (("batched", ()), ("split", ("--split-streams",))):
        result = frontier(
            pipelines("three-levels"), "-o", tmp_path / name, "--steps", 6, "--guidance", 3,
            "--keep", "0.75", "--count", 2, "--methods", "guidance-extrapolated,fewer-steps",
            "--pictures", 4,
            "--fine-steps", 8, *extra, "--json",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)
    (note,) = found["batched"]["notes"]
    assert note.startswith("guidance-extrapolated is left out")
    assert not found["split"]["notes"]
    methods = [point["method"] for point in found["split"]["points"]]
    assert "guidance-extrapolated" in methods
    full = [each["full"]["distances"]["fine"]["mean"] for each in found.values()]
    assert full[0] == pytest.approx(full[1], rel=1e-3), "the full samplers are the same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep", "2"), "'2' is not a list of fractions"),
        (("--methods", "carve,magic"), "'magic' is not one of the choices; choose from carve, dip-go"),
        (("--count", "1"), "1 is not in the range x>=2"),
        (("--random", "0"), "0 is not in the range x>=1"),
        (("--dip-go-iterations", "0"), "0 is not in the range x>=1"),
        (("--iterations", "0"), "0 is not in the range x>=1"),
        (("--guidance", "nan"), "nan is not a finite number"),
        (("--judge", "nowhere.onnx"), "File 'nowhere.onnx' does not exist"),
        (("--methods", "hold", "--random", "3"), "--random (for step-mask, budcache, random) has no effect here"),
        (("--prompts", "nowhere.txt"), "cannot read prompts from 'nowhere.txt'"),
        (("--device", "tpu"), "'tpu' is not one of 'cpu', 'cuda'"),
        (("--scheduler", "Magic"), "no scheduler 'Magic' for this pipeline"),
        (("--steps", "2", "--keep", "0.3"), "--keep 0.3 of 2 calls is less than one call"),
        (
            ("--steps", "2", "--methods", "fora", "--count", "2", "--keep", "0.5", "--pictures", "4",
             "--fine-steps", "2"),
            "nothing can be compared: fora is left out",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_written(
    pipelines: Callable[[str], Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = frontier(pipelines("three-levels"), "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_is_left_alone(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    result = frontier(pipelines("three-levels"), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "exists; remove it or choose another name" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def quality(*errors: float, **judged: Any) -> Quality:
    return Quality({target: Distance(errors) for target in Baseline}, 30, 0.9, **judged)


def toy_frontier() -> Frontier:
    toy = subnet(chain(), "RRR")
    point = Point(HOLD, "a <b>", 0.5, False, 0.4, 3, quality(0.1, 0.2), toy)
    return Frontier(
        pipeline="x & y",
        settings=FrontierSettings(keeps=(0.5,)),
        whole=toy,
        fine_steps=30,
        prompts=(("a",), ("b",)),
        reference=None,
        full=quality(0, 0),
        points=(point,),
        notes=("dip-go is left out: x < y",),
    )


def test_the_page_escapes_what_others_wrote(tmp_path: Path) -> None:
    found = toy_frontier()
    named = dataclasses.replace(found, points=(dataclasses.replace(found.points[0], label="k"),))
    write_frontier(named, tmp_path / "out")
    page = (tmp_path / "out" / "frontier.html").read_text()
    assert "x &amp; y" in page
    assert "x &lt; y" in page


def test_a_directory_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr(write, "page", fail)
    with pytest.raises(OSError, match="disk full"):
        write_frontier(toy_frontier(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_full_sampler_is_judged_too() -> None:
    found = toy_frontier()
    assert full_attributes(found) == ""
    judged = quality(0, 0, accuracy={"colour": 0.975}, frechet=12.34)
    found = dataclasses.replace(found, full=judged, reference="real pictures")
    assert full_attributes(found) == (
        "full sampler: colour 97.5%, Fréchet distance 12.3 (to real pictures)"
    )


def test_a_quantised_point_stands_beside_its_own_in_floating_point(tmp_path: Path) -> None:
    found = toy_frontier()
    (plain,) = found.points
    plan = Quantisation(scheme_named("int8"), {"a.weight": Layer(-1, 1, 1.0)})
    quantised = dataclasses.replace(
        plain, label="k", is_fitted=True, plan=plan, weights_bytes=1_200_000
    )
    settings = dataclasses.replace(found.settings, precisions=("int8",))
    both = dataclasses.replace(
        found, points=(dataclasses.replace(plain, label="k"), quantised), settings=settings
    )
    assert quantised.name == "hold k, fitted, int8"
    assert "precision" not in headings(found)
    row = dict(zip(headings(both), figures_of(both, quantised), strict=True))
    assert (row["precision"], row["weights"]) == ("int8", "1.2 MB")
    assert len(both.comparisons[0].ranking) == 2, "they do not rank as one"
    write_frontier(both, tmp_path / "out")
    points = json.loads((tmp_path / "out" / "frontier.json").read_text())["points"]
    assert [each["precision"] for each in points] == [None, "int8"]
    place = tmp_path / "out" / "subnets"
    assert Quantisation.load(place / "hold-k-fitted-int8.quantisation.json") == plan


@pytest.mark.slow
def test_every_fitted_subnet_is_quantised_where_asked(
    pipelines: Callable[[str], Path], tmp_path: Path
) -> None:
    result = frontier(
        pipelines("three-levels"), "-o", tmp_path / "out", "--steps", 6, "--guidance", 3,
        "--keep", "0.5", "--count", 3, "--pictures", 4, "--methods", "fewer-steps",
        "--fine-steps", 12, "--precision", "int8",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "out" / "frontier.json").read_text())["points"]
    plain, fitted, quantised = points
    assert [each["precision"] for each in points] == [None, None, "int8"]
    assert (
        quantised["weights_bytes"] < 0.5 * fitted["weights_bytes"] == 0.5 * plain["weights_bytes"]
    )
    errors = [each["distances"]["full"]["mean"] for each in (fitted, quantised)]
    assert errors[0] != errors[1]
    assert errors[1] < errors[0] + 0.1, "bits are lost, the picture is not"
    made = SubNet.load(tmp_path / "out" / quantised["subnet"])
    plan = Quantisation.load(
        (tmp_path / "out" / quantised["subnet"]).with_suffix(".quantisation.json")
    )
    assert plan.subnet == digest(made)
    assert plan.origin["error_refitted"] > 0, "as in a plan of stepcarve quantise"
