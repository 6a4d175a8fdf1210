"""The routes: the OpenAI images API, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from engines.errors import EngineError
from engines.pictures import png_of
from engines.serve.body_limit import BodyLimit
from engines.serve.errors import RequestError
from engines.serve.request import ImageRequest, refusal
from engines.serve.waiting import ClientGoneError, Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from starlette.types import Receive, Scope, Send

    from engines.serve.metrics import Metrics
    from engines.serve.queue import Job, RequestQueue
    from engines.serve.served import Served

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")
"""Host names under which a browser on this machine asks; other names may be another site's trick."""
GONE = 499
"""The status, in the metrics alone, of a request whose client has closed its connection."""


@dataclass(frozen=True)
class Desk:
    """What the routes work with.

    Attributes:
        models: by name, the default first.
        queue: of all requests.
        metrics: of the server.
        seconds: in which a request must be answered.
        token: that requests must bring; None lets everybody in, from this machine.
    """

    models: Mapping[str, Served]
    queue: RequestQueue
    metrics: Metrics
    seconds: float
    token: str | None

    def find(self, name: str | None) -> Served:
        """The model of that name, or the first."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            known = ", ".join(map(repr, self.models))
            msg = f"there is no model {name!r}; ask for {known}, or leave model out"
            raise RequestError(404, msg, code="model_not_found", param="model")
        return self.models[name]

    def count(self, model: str, status: int, seconds: float | None = None) -> None:
        """Count a request, and the seconds of one that was answered with pictures."""
        self.metrics.requests.labels(model, status).inc()
        if seconds is not None:
            self.metrics.request_seconds.labels(model).observe(seconds)

    async def require_token(self, authorization: Annotated[str, Header()] = "") -> None:
        """Refuse a request without the token."""
        given = authorization.removeprefix("Bearer ").encode()
        if self.token is not None and not secrets.compare_digest(given, self.token.encode()):
            msg = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
            raise RequestError(401, msg, code="invalid_api_key")


def make_app(desk: Desk) -> FastAPI:
    """The application."""
    app = FastAPI(title="stepcarve", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    if desk.token is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES, www_redirect=False)
    _add_errors(app, desk)
    _add_pages(app, desk)
    private = [Depends(desk.require_token)]

    @app.get("/v1/models", dependencies=private)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [each.about for each in desk.models.values()]}

    @app.get("/v1/models/{name:path}", dependencies=private)
    async def model(name: str) -> dict[str, Any]:
        return desk.find(name).about

    @app.post("/v1/images/generations", dependencies=private, response_model=None)
    async def generations(asked: ImageRequest, request: Request) -> Response:
        began = time.perf_counter()
        served = desk.find(asked.model)
        request.state.model = served.name
        waiting = Waiting(served.understand(asked), desk.queue, request, desk.seconds)
        if asked.stream:
            return _Stream(waiting, _events(desk, waiting, began))
        try:
            with waiting:
                async for _ in waiting.previews():
                    pass
        except ClientGoneError:
            desk.count(served.name, GONE)
            return Response(status_code=GONE)
        answer = JSONResponse(await asyncio.to_thread(_answer, waiting.job))
        desk.count(served.name, 200, time.perf_counter() - began)
        return answer

    return app


def _add_pages(app: FastAPI, desk: Desk) -> None:
    """The page, health and metrics."""
    page = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    policy = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health() -> JSONResponse:
        state = "ok" if desk.queue.is_open else "stopping"
        return JSONResponse({"status": state}, 200 if desk.queue.is_open else 503)

    @app.get("/metrics", dependencies=[Depends(desk.require_token)])
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI, desk: Desk) -> None:
    """Every error is JSON as in the OpenAI API."""

    def answer(request: Request, error: RequestError) -> JSONResponse:
        desk.count(getattr(request.state, "model", ""), error.status)
        return JSONResponse(error.to_json(), error.status, error.headers)

    @app.exception_handler(EngineError)
    async def refused(request: Request, error: EngineError) -> JSONResponse:
        return answer(request, _as_refusal(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, refusal(error.errors()))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        told = f"{request.method} {request.url.path}: {error.detail}"
        return answer(request, RequestError(error.status_code, told, code="http_error"))


def _as_refusal(error: EngineError) -> RequestError:
    """What a request is told that failed while it ran."""
    return (
        error if isinstance(error, RequestError) else RequestError(500, str(error), code="failed")
    )


class _Stream(StreamingResponse):
    """Events; the place is free when they end, even if the client has gone before the first."""

    def __init__(self, waiting: Waiting, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._waiting = waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Starlette."""
        with self._waiting:
            await super().__call__(scope, receive, send)


def _base64_of(image: NDArray[np.uint8], job: Job, number: int = 0) -> str:
    asked = job.asked
    return base64.b64encode(png_of(image, asked.about(asked.seeds[number]))).decode()


def _answer(job: Job) -> dict[str, Any]:
    """The body for all pictures of a job."""
    asked = job.asked
    return {
        "created": int(time.time()),
        "output_format": "png",
        "size": "x".join(map(str, asked.size)),
        "data": [
            {"b64_json": _base64_of(job.images[number], job, number), "seed": seed}
            for number, seed in enumerate(asked.seeds)
        ],
        "stepcarve": _figures(job),
    }


def _figures(job: Job) -> dict[str, Any]:
    bundle = job.asked.served.bundle
    return {
        "seconds": job.seconds,
        "steps": bundle.subnet.binding.inference_steps,
        "calls": len(bundle.calls),
    }


async def _events(desk: Desk, waiting: Waiting, began: float) -> AsyncIterator[str]:
    """Server-sent events: the previews, and the picture or an error."""
    job, model = waiting.job, waiting.job.asked.served.name
    status, seconds = GONE, None
    try:
        number = 0
        async for preview in waiting.previews():
            yield _event(job, "partial_image", preview, partial_image_index=number)
            number += 1
        figures = {"seed": job.asked.seeds[0], "stepcarve": _figures(job)}
        status, seconds = 200, time.perf_counter() - began
        yield _event(job, "completed", job.images[0], **figures)
    except ClientGoneError:
        pass
    except EngineError as error:
        told = _as_refusal(error)
        status = told.status
        yield f"event: error\ndata: {json.dumps(told.to_json())}\n\n"
    finally:
        desk.count(model, status, seconds)


def _event(job: Job, kind: str, image: NDArray[np.uint8], **more: Any) -> str:
    name = f"image_generation.{kind}"
    about = {
        "type": name,
        "b64_json": _base64_of(image, job),
        "created_at": int(time.time()),
        "size": "x".join(map(str, job.asked.size)),
        "quality": "auto",
        "background": "opaque",
        "output_format": "png",
        **more,
    }
    return f"event: {name}\ndata: {json.dumps(about)}\n\n"
