"""The OpenAI images API, asked by the openai client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable

import numpy as np
import openai
import pytest
from PIL import Image

from tests.engines.serve.gate import Running, pixels

GENERATIONS = "/v1/images/generations"
Start = Callable[..., Running]
Alone = Callable[..., np.ndarray]


def test_a_picture_is_the_one_of_its_seed(start: Start, alone: Alone) -> None:
    images = start().client.images
    made = images.generate(
        model="pair", prompt="a red circle", size="24x24", response_format="b64_json",
        extra_body={"seed": 5, "negative_prompt": "blue", "guidance_scale": 3.5},
    )  # fmt: skip
    assert made.data
    expected = alone("a red circle", 5, negative="blue", guidance=3.5)
    np.testing.assert_array_equal(pixels(made.data[0].b64_json), expected)
    file = base64.b64decode(made.data[0].b64_json or "")
    with Image.open(io.BytesIO(file)) as image:
        about = json.loads(image.text["stepcarve"])
    assert (about["prompt"], about["seed"], about["guidance"]) == ("a red circle", 5, 3.5)


def test_pictures_of_a_batch_are_those_of_their_seeds(start: Start, alone: Alone) -> None:
    running = start()
    made = running.client.images.generate(prompt="red", n=3, extra_body={"seed": 2**32 - 1})
    assert made.data
    for each, seed in zip(made.data, (2**32 - 1, 0, 1), strict=True):
        difference = pixels(each.b64_json).astype(int) - alone("red", seed)
        assert np.abs(difference).max() <= 1
    assert running.metric("stepcarve_run_seconds_count") == 2, "two pictures, and one"
    assert running.metric("stepcarve_pictures_total") == 3


def test_a_seed_is_drawn_and_told(start: Start, alone: Alone) -> None:
    images = start().client.images
    seeds = []
    for _ in range(2):
        data = images.generate(prompt="red").data
        assert data
        seeds.append(data[0].model_extra["seed"])  # type: ignore[index]
        np.testing.assert_array_equal(pixels(data[0].b64_json), alone("red", seeds[-1]))
    assert seeds[0] != seeds[1]


def test_previews_are_streamed_before_the_picture(start: Start, alone: Alone) -> None:
    events = list(
        start().client.images.generate(
            prompt="red", stream=True, partial_images=2, extra_body={"seed": 1}
        )
    )
    assert [event.type.partition(".")[2] for event in events] == [
        "partial_image", "partial_image", "completed",
    ]  # fmt: skip
    first, second, last = (pixels(event.b64_json) for event in events)
    assert first.shape == second.shape == last.shape
    assert (first != second).any()
    np.testing.assert_array_equal(last, alone("red", 1))


def test_models_are_listed(start: Start) -> None:
    models = start().client.models
    assert [model.id for model in models.list()] == ["pair"]
    about = models.retrieve("pair").model_extra["stepcarve"]  # type: ignore[index]
    assert (about["sizes"], about["steps"], about["calls"]) == (["24x24"], 4, 4)
    assert len(about["grid"]) == 4
    assert {len(row) for row in about["grid"]} == {len(about["blocks"])}
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'; ask for 'pair'"):
        models.retrieve("other")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "the body is not JSON; send one JSON object"),
        ("[1]", 400, "the body is not a JSON object"),
        ("", 400, "is not a JSON object"),
        ("{}", 400, "the field 'prompt' is missing; add it"),
        ({"prompt": 3}, 400, "prompt is 3, but it should be a valid string; change it"),
        ('{"prompt": "\\ud800"}', 400, "prompt is '\\ud800', but it"),
        ({"prompt": "x", "model": "other"}, 404, "there is no model 'other'"),
        ({"prompt": "x", "size": "64x64"}, 400, "model 'pair' makes 24x24; ask for one of these"),
        ({"prompt": "x", "size": "big"}, 400, "size is 'big', but it"),
        ({"prompt": "x", "n": 0}, 400, "n is 0, but it should be greater than or equal to 1"),
        ({"prompt": "x", "n": 11}, 400, "n is 11, but it should be less than or equal to 10"),
        ({"prompt": "x", "guidance_scale": 1}, 400, "switches guidance off"),
        ('{"prompt": "x", "guidance_scale": NaN}', 400, "guidance_scale is nan, but it should be a finite"),
        ({"prompt": "x", "num_inference_steps": 50}, 400, "50 steps were requested, but model 'pair' makes 4"),
        ({"prompt": "x", "seed": -1}, 400, "seed is -1, but it should be greater than or equal to 0"),
        ({"prompt": "x", "response_format": "url"}, 400, "response_format is 'url', but it should be 'b64_json'"),
        ({"prompt": "x", "background": "transparent"}, 400, "background is 'transparent'"),
        ({"prompt": "x", "steps": 3}, 400, "there is no field 'steps' here"),
        ({"prompt": "x", "partial_images": 2}, 400, "set stream to true"),
        ({"prompt": "x", "n": 2, "stream": True}, 400, "a streamed request makes one"),
        ({"prompt": "x" * 40_000}, 400, "prompt is 'xxx"),
        ({"prompt": "x" * 2_000_000}, 413, "the body has more than 1048576 bytes"),
        ("[" * 100_000, 400, ""),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_one_sentence(
    start: Start, body: object, status: int, message: str
) -> None:
    running = start()
    sent = body if isinstance(body, str) else json.dumps(body)
    found, text, _ = running.ask("POST", GENERATIONS, sent)
    error = json.loads(text)["error"]
    assert found == status, error
    assert message in error["message"]
    assert len(error["message"]) < 600
    assert "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"
    assert running.metric("stepcarve_held_requests") == 0


def test_text_that_a_png_cannot_hold_as_it_is_makes_a_picture(start: Start) -> None:
    made = start().client.images.generate(prompt="a\0b \U0001f600 дом")
    assert made.data
    assert pixels(made.data[0].b64_json).shape == (24, 24, 3)


def test_other_content_types_and_routes_are_refused(start: Start) -> None:
    running = start()
    body = json.dumps({"prompt": "x"})
    status, text, _ = running.ask("POST", GENERATIONS, body, {"Content-Type": "text/plain"})
    assert (status, "application/json" in text) == (400, True), "a form of another site sends this"
    status, text, _ = running.ask("POST", "/v1/images/edits", body)
    assert status == 404
    assert json.loads(text)["error"]["message"] == "POST /v1/images/edits: Not Found"
    assert running.ask("GET", GENERATIONS)[0] == 405


def test_a_name_that_is_not_this_machines_is_refused(start: Start) -> None:
    """A page of another site may resolve its own name to this machine."""
    running = start()
    status, _, _ = running.ask("GET", "/v1/models", headers={"Host": "evil.example"})
    assert status == 400
    assert running.ask("GET", "/v1/models", headers={"Host": "localhost:1"})[0] == 200


def test_the_token_is_required(start: Start) -> None:
    running = start(token="secret")
    assert running.client.images.generate(prompt="red").data
    wrong = running.client.with_options(api_key="other")
    with pytest.raises(
        openai.AuthenticationError, match="the token is missing or wrong; send the header"
    ):
        wrong.images.generate(prompt="red")
    for path, status in (("/v1/models", 401), ("/metrics", 401), ("/health", 200), ("/", 200)):
        assert running.ask("GET", path)[0] == status
    assert running.metric("stepcarve_requests_total", "secret") >= 2


def test_health_and_metrics(start: Start) -> None:
    running = start()
    assert running.ask("GET", "/health")[:2] == (200, '{"status":"ok"}')
    running.client.images.generate(prompt="red")
    running.ask("POST", GENERATIONS, "{")
    text = running.ask("GET", "/metrics")[1]
    assert 'stepcarve_requests_total{model="pair",status="200"} 1.0' in text
    assert 'stepcarve_requests_total{model="",status="400"} 1.0' in text
    assert running.metric("stepcarve_calls_total") == 4
    assert running.metric("stepcarve_request_seconds_count") == 1
