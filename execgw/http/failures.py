"""What the server says no with: a status, a word for programs, a sentence for people, and what else one may know."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse, Response

from .access import Denied


class Refusal(Denied):
    """A request that is not done; *more* goes into the answer beside the word and the sentence."""

    def __init__(self, status: int, word: str, why: str, retry_after: float | None = None, **more: Any) -> None:
        super().__init__(status, word, why, retry_after)
        self.more = more


def body_of(denied: Denied) -> dict[str, Any]:
    """What the answer holds."""
    return {"error": denied.word, "why": denied.why, **getattr(denied, "more", {})}


def answer(denied: Denied) -> Response:
    """The answer to a request that is not done."""
    response = JSONResponse(body_of(denied), denied.status)
    if denied.retry_after is not None:
        response.headers["Retry-After"] = str(max(math.ceil(denied.retry_after), 1))
    if denied.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="execgw"'
    return response
