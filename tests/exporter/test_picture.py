"""Pictures of a SubNet, as text and as a figure."""

from __future__ import annotations

from exporter.picture import LOOKS, draw_grid, grid_lines
from search.core.actions import Action
from tests.toys import chain, subnet


def test_the_grid_says_which_graph_a_step_calls_and_what_it_costs() -> None:
    lines = grid_lines(subnet(chain(), "RRR", "RcR", "ccc", "RRR"))
    by_name = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[:-1]}
    assert by_name["graph"] == "01·0"
    assert by_name["MACs"][0] == "█"
    assert by_name["MACs"][1] in "▁▂▃▄▅▆▇"


def test_the_grid_names_every_kind_of_cell() -> None:
    lines = grid_lines(subnet(chain(), "RRR", "RdR", "RsR"))
    assert lines[1].strip() == "b █+-"
    assert all(f"{symbol} {meaning}" in lines[-1] for symbol, _, meaning in LOOKS.values())
    for looks in zip(*LOOKS.values(), strict=True):
        assert len(set(looks)) == len(Action) + 1, "one for what is gone"


def test_the_figure_names_every_kind_of_cell() -> None:
    legend = draw_grid(subnet(chain(), "RRR", "RdR")).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [
        meaning for *_, meaning in LOOKS.values()
    ]
