"""`stepcarve frontier`, from the command line to the files."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli import main
from examples.shapes.pictures import draw
from search.core.subnet import SubNet
from search.core.table import keep_of
from search.frontier import write
from search.frontier.judge import Judge
from search.frontier.points import Frontier, Point
from search.frontier.quality import Quality
from search.frontier.series import HOLD
from search.frontier.settings import FrontierSettings
from search.frontier.table import full_attributes
from search.frontier.write import write_frontier
from tests.toys import chain, subnet

JUDGE = Path(__file__).parents[3] / "examples" / "shapes" / "judge.onnx"
BASELINES = ("deepcache", "fewer-steps", "dpm-solver", "hold", "hold-spaced", "random")


def frontier(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["frontier", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def made(pipelines: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, as small as it goes."""
    root = tmp_path_factory.mktemp("frontier")
    (root / "search.txt").write_text("a red circle\na blue square\n")
    (root / "judge.txt").write_text("a green cross\n")
    result = frontier(
        pipelines("three-levels"), "-o", root / "out", "--steps", 6, "--guidance", 3,
        "--keep", "0.5", "--count", 3, "--iterations", 1, "--pictures", 6, "--dip-go-iterations", 1, "--random", 2,
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
    expected = {(name, is_fitted) for name in (*BASELINES, "dip-go") for is_fitted in (False, True)}
    assert found == {*expected, ("carve", True)}


def test_every_point_has_its_subnet_and_the_cost_of_it(
    made: Path, record: dict[str, list[dict[str, object]]]
) -> None:
    files = {str(point["subnet"]) for point in record["points"]}
    assert len(files) == len(record["points"])
    assert {f"subnets/{p.name}" for p in (made / "out" / "subnets").iterdir()} == files
    for point in record["points"]:
        loaded = SubNet.load(made / "out" / str(point["subnet"]))
        assert keep_of(loaded) == pytest.approx(point["cost"])
        assert float(str(point["cost"])) <= 0.5 + 1e-9


def test_the_record_says_what_was_done(made: Path, record: dict[str, dict[str, object]]) -> None:
    assert record["schema"] == 1
    assert record["kind"] == "stepcarve-frontier"
    assert record["settings"]["prompts"] == ["a red circle", "a blue square"]
    assert record["settings"]["held_out"] == ["a green cross"]
    assert record["settings"]["dip_go_iterations"] == 1
    assert record["full"]["error"] == 0


def test_the_ratios_are_those_of_the_points(record: dict[str, list[dict[str, object]]]) -> None:
    errors = {str(p["subnet"]): float(str(p["error"])) for p in record["points"]}
    (comparison,) = record["comparisons"]
    contenders = comparison["contenders"]
    assert isinstance(contenders, dict)
    assert set(contenders) == {
        "carve", "best plain baseline", "best fitted baseline", "dip-go", "dip-go, fitted",
    }  # fmt: skip
    ours = errors[contenders["carve"]["subnet"]]
    for role, each in contenders.items():
        if role != "carve":
            assert each["ours_over_this"] == pytest.approx(ours / errors[each["subnet"]])


def test_the_table_has_the_points(made: Path, record: dict[str, list[dict[str, object]]]) -> None:
    with (made / "out" / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["subnet"] for row in rows] == [point["subnet"] for point in record["points"]]
    for row, point in zip(rows, record["points"], strict=True):
        assert float(row["error"]) == point["error"]
        assert row["fitted"] == str(point["fitted"]).lower()


def test_the_page_stands_alone(made: Path) -> None:
    page = (made / "out" / "frontier.html").read_text()
    assert "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "best fitted baseline" in page
    assert "<script" not in page


def test_the_terminal_shows_the_ratios(made: Path) -> None:
    printed = (made / "printed.txt").read_text()
    assert "at 0.5 of the full cost, or less" in printed
    row = next(line for line in printed.splitlines() if "best plain baseline" in line)
    assert re.search(r"\d\.\d\d x", row)
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
        (("--methods", "hold", "--random", "3"), "nothing uses --random (for random) here"),
        (("--prompts", "nowhere.txt"), "cannot read prompts from 'nowhere.txt'"),
        (("--device", "tpu"), "'tpu' is not one of 'cpu', 'cuda'"),
        (("--scheduler", "Magic"), "no scheduler 'Magic' for this pipeline"),
        (("--steps", "2", "--keep", "0.3"), "--keep 0.3 of 2 calls is less than one call"),
        (
            ("--steps", "2", "--methods", "dpm-solver", "--scheduler", "DPMSolverMultistepScheduler",
             "--count", "2", "--keep", "0.5"),
            "nothing can be compared: dpm-solver is left out",
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


def toy_frontier() -> Frontier:
    toy = subnet(chain(), "RRR")
    point = Point(HOLD, "a <b>", 0.5, False, 0.4, 3, Quality(0.1, 0.1, 0.2, 30, 0.9), toy)
    return Frontier(
        pipeline="x & y",
        settings=FrontierSettings(keeps=(0.5,)),
        whole=toy,
        prompts=(("a",), ("b",)),
        reference=None,
        full=Quality(0, 0, 0, 100, 1),
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
    judged = Quality(0, 0, 0, 100, 1, accuracy={"colour": 0.975}, frechet=12.34)
    found = dataclasses.replace(found, full=judged, reference="real pictures")
    assert full_attributes(found) == (
        "full sampler: colour 97.5%, Fréchet distance 12.3 (to real pictures)"
    )
