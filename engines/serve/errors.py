"""What a request is refused with: a status and one sentence, in the form of the OpenAI API."""

from __future__ import annotations

from typing import Any

from engines.errors import EngineError


class RequestError(EngineError):
    """A request that is not answered with pictures.

    Attributes:
        status: of HTTP.
        code: a word for programs.
        param: the field of the request that is to blame, or None.
        retry_after: seconds after which the same request may be answered, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        about = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": about}
