"""`stepcarve export`."""

from __future__ import annotations

import pytest

from tests.command_line import Places, require_refused

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("line", "message"),
    [
    ("export {dit} {subnet} -o {out}", "the SubNet was made for denoiser 'UNet2DConditionModel'"),
    ("export {truncated} {subnet} -o {out}", "cannot read the weights"),
    ("export {sd} {no} -o {out}", "cannot read the SubNet"),
    ("export {sd} {tmp}/notes.txt -o {out}", "is not JSON"),
    ("export {sd} {subnet} -o {out} --size 24", "'24' is not HEIGHTxWIDTH; give pixels"),
    ("export {sd} {subnet} -o {out} --size 25x24", "choose"),
    ("export {sd} {subnet} -o {out} --batch 1 --batch 0", "0 is not in the range x>=1"),
    (
        f"export {{sd}} {{subnet}} -o {{out}} --ip-adapter {{sd}}/unet/{WEIGHTS} --ip-adapter {{sd}}/vae/{WEIGHTS}",
        "a bundle has one IP-Adapter, but",
    ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    bad_places: Places, line: str, message: str
) -> None:
    require_refused(line, message, bad_places)
