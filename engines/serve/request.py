"""The body of `POST /v1/images/generations`, and an error in it as one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engines.serve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 10
"""Pictures of one request, as in the OpenAI API."""
PREVIEWS = 20
"""Previews of one request."""
LONGEST = 32_000
"""Characters of a prompt, as in the OpenAI API."""


class ImageRequest(BaseModel):
    """Fields of the OpenAI API, and the names of diffusers for what it lacks.

    Fields that would change the picture in a way that no bundle can are refused. `user` and
    `safety_identifier` have no effect there either.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(max_length=LONGEST)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,5}x\d{1,5})$")] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=PREVIEWS)] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    negative_prompt: Annotated[str, Field(max_length=LONGEST)] | None = None
    guidance_scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    num_inference_steps: int | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None


def refusal(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first of pydantic's errors, in a sentence."""
    first = errors[0]
    kind, place = first["type"], [part for part in first["loc"] if part != "body"]
    param = str(place[0]) if place and isinstance(place[0], str) else None
    given = repr(first.get("input"))
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    if kind == "json_invalid":
        told = "the body is not JSON; send one JSON object with the content type application/json"
    elif kind == "missing" and param:
        told = f"the field {param!r} is missing; add it to the request"
    elif kind == "extra_forbidden":
        known = ", ".join(ImageRequest.model_fields)
        told = f"there is no field {param!r} here; leave it out, or take one of {known}"
    elif param is None:
        told = "the body is not a JSON object; send one with the content type application/json"
    else:
        wanted = str(first["msg"]).removeprefix("Input ")
        told = f"{param} is {shown}, but it {wanted}; change it, or leave it out"
    return RequestError(400, told, code=kind, param=param)
