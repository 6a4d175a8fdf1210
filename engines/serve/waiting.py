"""A request that waits in the queue, as the event loop sees it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from engines.serve.errors import RequestError
from engines.serve.queue import Job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    import numpy as np
    from fastapi import Request
    from numpy.typing import NDArray

    from engines.serve.queue import RequestQueue
    from engines.serve.served import Asked


class ClientGoneError(Exception):
    """Nobody reads the answer."""


class Waiting:
    """Takes a place when it is made, and frees it when its `with` block ends."""

    def __init__(self, asked: Asked, queue: RequestQueue, request: Request, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[NDArray[np.uint8] | None] = asyncio.Queue()

        def tell(news: NDArray[np.uint8] | None) -> None:
            loop.call_soon_threadsafe(self._news.put_nowait, news)

        self.job = Job(asked, on_preview=tell, on_done=lambda: tell(None))
        self._queue, self._seconds = queue, seconds
        self._ends = time.monotonic() + seconds
        queue.enter(self.job)
        self._gone = asyncio.create_task(_disconnected(request))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.leave(self.job)
        self._gone.cancel()

    async def previews(self) -> AsyncIterator[NDArray[np.uint8]]:
        """Each preview; ends when the job is done.

        Raises:
            EngineError: nothing was made, or not in time.
            ClientGoneError: the client has closed its connection.
        """
        while (news := await self._next()) is not None:
            yield news
        if self.job.error is not None:
            raise self.job.error

    async def _next(self) -> NDArray[np.uint8] | None:
        news = asyncio.create_task(self._news.get())
        try:
            left = self._ends - time.monotonic()
            awaited = {news, self._gone}
            done, _ = await asyncio.wait(awaited, timeout=left, return_when="FIRST_COMPLETED")
        finally:
            news.cancel()
        if news in done:
            return news.result()
        if done:
            raise ClientGoneError
        msg = f"the pictures were not made within {self._seconds:g} s; ask for fewer, or send the request again later"
        raise RequestError(504, msg, code="time_limit")


async def _disconnected(request: Request) -> None:
    """Wait until the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
