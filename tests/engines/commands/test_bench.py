"""`stepcarve bench`: what it refuses."""

from __future__ import annotations

import pytest

from tests.command_line import Places, require_refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
    ("bench {bundle} -o {out} --repeats 0", "0 is not in the range x>=1"),
    ("bench {bundle} -o {out} --engine ,", "nothing is named; choose from onnxruntime"),
    ("bench {bundle} -o {out} --against jax", "'jax' is not one of the choices; choose from eager, deepcache, compile"),
        (
            "bench {bundle} -o {out} --against eager --interval 3",
            "--interval (with --against deepcache) has no effect here",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
