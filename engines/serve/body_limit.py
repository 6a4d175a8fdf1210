"""Refuses bodies that no request of this API has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

BYTES = 1 << 20


class BodyLimit:
    """Stops reading a body after `BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BYTES:
                told = f"the body has more than {BYTES} bytes; send a shorter one"
                raise HTTPException(413, told)
            return message

        await self._app(scope, limited, send)
