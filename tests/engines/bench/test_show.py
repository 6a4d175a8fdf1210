"""Tables, plot and the command that prints them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli import main
from engines.bench import run
from engines.bench.records import Bench
from engines.bench.show import draw, tables
from engines.memory import Memory
from tests.engines.bench.test_records import made


def printed(bench: Bench) -> str:
    console = Console(width=140)
    with console.capture() as told:
        for table in tables(bench):
            console.print(table)
    return told.get()


def test_a_line_says_what_a_row_took_and_what_it_was_worth() -> None:
    lines = {
        line.split("│")[1].strip(): line for line in printed(made()).splitlines() if "│" in line
    }
    subnet = [cell.strip() for cell in lines["ort + SubNet"].split("│")[2:-1]]
    assert subnet == ["float32", "3.00", "3.00 to 4.00", "2.00", "6.00 x", "3.00 x", "75%", "-"]
    assert "not installed" in lines["DeepCache"]


def test_a_quantised_bundle_shows_its_precision_memory_and_error() -> None:
    bench = made()
    *others, last = bench.rows
    contender = replace(last.contender, precision="int8")
    quantised = replace(last, contender=contender, memory=Memory(20_000_000, 3_000_000))
    bench = replace(bench, rows=(*others, quantised), errors={"error_refitted": 0.0421})
    line = next(each for each in printed(bench).splitlines() if "ort + SubNet" in each)
    cells = [cell.strip() for cell in line.split("│")[2:-1]]
    assert (cells[0], *cells[-2:]) == ("int8", "23 MB", "0.0421")
    axes = draw(bench).axes[0]
    assert "ort + SubNet, int8" in [each.get_text() for each in axes.get_yticklabels()]
    assert any("23 MB, error 0.0421" in each.get_text() for each in axes.texts)


def test_calls_of_a_graph_stand_beside_their_macs() -> None:
    text = printed(made())
    assert "25.0%" in text
    assert "1000.0 (33.3%)" in text


def test_too_many_graphs_are_left_to_the_plot() -> None:
    assert len(tables(replace(made(), graphs=(0, 0)))) == 1
    many = replace(made(), graphs=tuple(range(40)))
    assert len(tables(many)) == 1


@pytest.mark.parametrize("rows", [slice(None), slice(3), slice(2)])
def test_the_plot_has_a_bar_per_row_that_ran(rows: slice) -> None:
    bench = replace(made(), rows=made().rows[rows])
    figure = draw(bench)
    assert len(figure.axes[0].containers) >= len(bench.measured)
    assert len(figure.axes) == (2 if rows == slice(None) else 1)


def test_the_command_prints_tables_or_json(tmp_path: Path) -> None:
    bundle = mock.MagicMock()
    with (
        mock.patch.object(run, "bench", return_value=made()) as asked,
        mock.patch("exporter.bundle.Bundle.open", return_value=bundle),
    ):
        command = [
            "bench",
            "b",
            "-o",
            str(tmp_path / "out"),
            "--engine",
            "openvino,onnxruntime",
            "--full",
            "f",
        ]
        plain = CliRunner().invoke(main, command)
        told = CliRunner().invoke(main, [*command, "--json"])
    assert plain.exit_code == 0, plain.output
    assert "ort + SubNet" in plain.stdout
    settings = asked.call_args.args[2]
    assert (settings.engines, settings.full) == (("openvino", "onnxruntime"), Path("f"))
    assert json.loads(told.stdout)["rows"][3]["share_of_macs_ratio"] == 0.75
    assert (tmp_path / "out" / "bench.svg").is_file()
