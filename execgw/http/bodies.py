"""Values as bodies of HTTP: JSON where it has them, text, and the value format of execgw.dumps.

A value waits in the server as the bytes that came from the worker.  It is looked at only when somebody wants it as
JSON or text: who takes the value format gets these very bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

from ..errors import LoadError
from ..values import MAGIC, loads
from .failures import Refusal

JSON = "application/json"
TEXT = "text/plain"
VALUE = "application/x-execgw-value"
SOURCE = "text/x-python"
FORM = "application/x-www-form-urlencoded"  # what curl says of any body
FRAMES = "application/x-execgw-frames"

UTF8 = "; charset=utf-8"


# -- out


def packed(form: int, data: bytes) -> bytes:
    """What execgw.loads reads."""
    return MAGIC + bytes([form]) + data


def loaded(form: int, data: bytes) -> Any:
    """The value.  Raises Refusal (422) for what is none: it came from a worker that may send anything."""
    try:
        return loads(packed(form, data))
    except LoadError as e:
        raise Refusal(422, "value", f"the code sent something that cannot be read here: {e}") from None


def rendered(form: int, data: bytes, accept: str) -> tuple[bytes, str]:
    """(body, content type) of a value, as the Accept of a request likes it.  Raises Refusal: 406, 422."""
    wanted = Accept(accept)
    if wanted.only(VALUE):
        return packed(form, data), VALUE
    value = loaded(form, data)
    if type(value) is str and wanted.q(TEXT) > max(wanted.q(JSON), 0):
        try:
            return value.encode("utf-8"), TEXT + UTF8
        except UnicodeEncodeError:
            pass
    if wanted.q(JSON) > 0:
        text = as_json(value)
        if text is not None:
            return text, JSON
    if wanted.q(VALUE) > 0:
        return packed(form, data), VALUE
    what = type(value).__name__
    raise Refusal(
        406, "type", f"the next value, of type {what}, cannot be written as {accept!r:.200}; it was not taken"
    )


def as_object(form: int, data: bytes) -> dict[str, Any]:
    """A value as part of a JSON object, for streams."""
    value = loaded(form, data)
    if as_json(value) is not None:
        return {"value": value}
    return {"execgw": base64.b64encode(packed(form, data)).decode("ascii")}


def as_json(value: object) -> bytes | None:
    """A value in JSON, or None if JSON does not have it."""
    if not _is_json(value):
        return None
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError):  # a type, NaN, a lone surrogate, depth
        return None


def _is_json(value: object) -> bool:
    """Whether json.dumps would not write something else than it is: it turns keys into text."""
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if type(item) is dict:
            if not all(type(key) is str for key in item):
                return False
            left.extend(item.values())
        elif type(item) in (list, tuple):
            left.extend(item)
        elif type(item) is int and item.bit_length() > MOST_BITS:
            return False
    return True


MOST_BITS = 4096  # of an int: longer ones take time to write in decimals that grows with the square of their size


class Accept:
    """What a request's Accept says."""

    def __init__(self, text: str) -> None:
        self._q: dict[str, float] = {}
        for part in (text or "*/*").split(","):
            kind, *parameters = [piece.strip().lower() for piece in part.split(";")]
            self._q[kind] = _quality(parameters)

    def q(self, kind: str) -> float:
        """How much a type is liked, from 0, not at all, to 1."""
        for key in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
            if key in self._q:
                return self._q[key]
        return 0.0

    def only(self, kind: str) -> bool:
        """Whether it is liked best, and by name."""
        return self._q.get(kind, 0.0) > 0 and all(self._q[kind] >= q for key, q in self._q.items() if key != "*/*")


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


# -- in


def kind_of(content_type: str) -> str:
    """The content type of a request without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def text_of(body: bytes) -> str:
    """Source, or plain text.  Raises Refusal (400)."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as e:
        raise Refusal(400, "value", f"the body is not UTF-8: {e}") from None


def value_of(body: bytes, content_type: str) -> Any:
    """The value that a body of data stands for.  Raises Refusal: 400, 415."""
    kind = kind_of(content_type)
    if kind == VALUE:
        try:
            return loads(body)
        except LoadError as e:
            raise Refusal(400, "value", f"the body is no value of execgw.dumps: {e}") from None
    if kind == TEXT:
        return text_of(body)
    if kind in (JSON, FORM, ""):
        return from_json(body, kind)
    known = f"{JSON}, {TEXT}, {VALUE}, or {SOURCE} for code to run"
    raise Refusal(415, "type", f"{kind!r:.100} says nothing of what the code is to receive; send {known}")


def from_json(body: bytes, kind: str = JSON) -> Any:
    """The value of a JSON text.  Raises Refusal (400)."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "value", "the body is nested too deep") from None
    except ValueError as e:
        hint = "" if kind == JSON else "; for plain text send Content-Type: text/plain"
        raise Refusal(400, "value", f"the body is no JSON: {e}{hint}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not in JSON")


def value_in(message: dict[str, Any]) -> Any:
    """The value in a JSON object of a stream.  Raises Refusal (400)."""
    if "execgw" not in message:
        return message["value"]
    try:
        return loads(base64.b64decode(message["execgw"], validate=True))
    except (ValueError, TypeError, LoadError) as e:
        raise Refusal(400, "value", f"'execgw' is not the base64 of a value: {e}") from None
