"""The routes, described for machines: GET /openapi.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._version import __version__
from .bodies import FORM, FRAMES, JSON, SOURCE, TEXT, VALUE

if TYPE_CHECKING:
    from .limits import ServerLimits

Json = dict[str, Any]

ERROR = {"$ref": "#/components/schemas/Error"}
PID_TYPE = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
PID = {
    "name": "pid",
    "in": "path",
    "required": True,
    "description": "what POST /popen answered",
    "schema": PID_TYPE,
}
MEANS = {
    400: "it cannot be understood",
    401: "no token, a wrong one, or one that is over",
    403: "the policy or the token does not allow it",
    404: "there is no such process of yours",
    406: "the next message cannot be written as Accept asks",
    408: "the body came too slowly",
    409: "it does not fit to what went before, or to what the process is",
    410: "the process, or the code, has ended",
    413: "the body is too large",
    415: "no such content type here",
    416: "messages were dropped, for nobody took them in time",
    422: "the code raised",
    429: "this token has as many processes, or this process runs as many codes, as it may",
    502: "the process could not be started",
    503: "there is no room, the code takes no data, or the server ends",
}
ALWAYS = (400, 401, 403)


def _answers(good: dict[int, Json], *bad: int) -> Json:
    answers: Json = {str(status): answer for status, answer in good.items()}
    for status in (*ALWAYS, *bad):
        answers[str(status)] = {"description": MEANS[status], "content": {JSON: {"schema": ERROR}}}
    return answers


def _json(about: str, schema: Json | None = None) -> Json:
    return {"description": about, "content": {JSON: {"schema": schema or {"type": "object"}}}}


def _object(required: tuple[str, ...] = (), **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _query(name: str, about: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": about, "schema": schema}


TEXT_TYPE = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0, "maximum": 1 << 53}
SECONDS = {"type": "number", "minimum": 0}
AFTER = _query("after", "the number of the last message that the client has", WHOLE)
WAIT = _query("wait", "seconds to wait", SECONDS)
STATE = _object(
    ("pid", "state"),
    pid=TEXT_TYPE,
    protocol={"enum": ["values", "frames"]},
    spec=TEXT_TYPE,
    owner=TEXT_TYPE,
    state={"enum": ["busy", "idle", "ended"]},
    queue=_object(messages=WHOLE, bytes=WHOLE, dropped=WHOLE),
)
HAD = _object(("channel", "seq"), channel=WHOLE, seq=WHOLE)
ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}


def _op(name: str, about: str, answers: Json, *parameters: Json, body: Json | None = None) -> Json:
    told: Json = {"operationId": name, "summary": about, "responses": answers}
    if parameters:
        told["parameters"] = list(parameters)
    if body is not None:
        told["requestBody"] = body
    return told


def _popen(limits: ServerLimits) -> Json:
    schema = _object(
        spec={"type": "string", "description": "the name of a spec of the server's policy"},
        protocol={"enum": ["values", "frames"], "default": "values"},
        version={"type": "string", "description": "with frames: the client's version of execgw"},
        grace={**SECONDS, "description": "with frames: seconds that it lives on while nobody is connected"},
        patience={
            "type": ["number", "null"],
            "minimum": 0,
            "description": "seconds that full queues wait for a reader",
        },
    )
    return {"required": False, "content": {JSON: {"schema": schema}}}


def _bodies(limits: ServerLimits) -> Json:
    text = {"schema": {"type": "string", "maxLength": limits.body}}
    return {
        "required": False,
        "content": {
            JSON: {"schema": {}},
            TEXT: text,
            SOURCE: text,
            FORM: {"schema": {}},
            VALUE: ANY_BYTES,
            FRAMES: ANY_BYTES,
        },
    }


def description(limits: ServerLimits) -> Json:
    """The whole document, OpenAPI 3.1."""
    made = _json("started", _object(("pid",), pid=TEXT_TYPE, protocol=TEXT_TYPE, spec=TEXT_TYPE))
    made["headers"] = {"Location": {"schema": TEXT_TYPE}}
    starting = (408, 413, 429, 502, 503)
    message = {
        "description": "the next message",
        "headers": {"Execgw-Seq": {"schema": WHOLE}, "Execgw-Channel": {"schema": WHOLE}},
        "content": {JSON: {"schema": {}}, TEXT: {"schema": TEXT_TYPE}, VALUE: ANY_BYTES, FRAMES: ANY_BYTES},
    }
    nothing = {"description": "nothing yet"}
    one: Json = {
        "post": _op(
            "send",
            "Send source, data or frames",
            _answers({200: _json("had before", HAD), 202: _json("taken", HAD)}, 404, 408, 409, 410, 413, 415, 429, 503),
            _query("seq", "the number of this request; one that was had before runs nothing", {**WHOLE, "minimum": 1}),
            _query("channel", "whose code the data is for; without, the newest", {**WHOLE, "minimum": 1}),
            _query("end", "no more data will come", TEXT_TYPE),
            WAIT,
            body=_bodies(limits),
        ),
        "get": _op(
            "receive",
            "The next message, or frames",
            _answers({200: message, 204: nothing}, 404, 406, 409, 410, 416, 422, 503),
            AFTER,
            WAIT,
        ),
        "delete": _op("end", "End the process", _answers({200: _json("ended", _object(("how",), how=TEXT_TYPE))}, 404)),
        "parameters": [PID],
    }
    stream = {"description": "events", "content": {"text/event-stream": {"schema": TEXT_TYPE}}}
    printed = {"description": "what was printed", "content": {TEXT: {"schema": TEXT_TYPE}}}
    printed["headers"] = {"Execgw-Offset": {"schema": WHOLE}}
    ticket = {"required": True, "content": {JSON: {"schema": _object(("pid",), pid=PID_TYPE)}}}
    listed = _object(("processes",), processes={"type": "array", "items": STATE})
    last = {"name": "Last-Event-ID", "in": "header", "schema": WHOLE}
    spec = _query("spec", "the name of a spec of the server's policy", TEXT_TYPE)
    run = _op(
        "run",
        "Start a process, and run the body in it",
        _answers({201: made}, 415, *starting),
        spec,
        body=_bodies(limits),
    )
    interrupted = _json("what came of it, by channel", _object(("interrupted",), interrupted={"type": "object"}))
    health = {"200": _json("it is there"), "503": {"description": MEANS[503], "content": {JSON: {"schema": ERROR}}}}
    figures = {"description": "figures", "content": {TEXT: {"schema": TEXT_TYPE}}}
    paths: Json = {
        "/popen": {"post": _op("popen", "Start a process", _answers({201: made}, *starting), body=_popen(limits))},
        "/exec": {
            "post": run,
            "get": _op("list", "Own processes", _answers({200: _json("all of them", listed)})),
        },
        "/exec/{pid}": one,
        "/exec/{pid}/stream": {
            "get": _op("stream", "Messages as server-sent events", _answers({200: stream}, 404, 409), AFTER, last),
            "parameters": [PID],
        },
        "/exec/{pid}/state": {
            "get": _op("state", "What the process is and does", _answers({200: _json("its state", STATE)}, 404)),
            "parameters": [PID],
        },
        "/exec/{pid}/output": {
            "get": _op("output", "What the process has printed", _answers({200: printed}, 404, 410), AFTER, WAIT),
            "parameters": [PID],
        },
        "/exec/{pid}/interrupt": {
            "post": _op("interrupt", "Interrupt the code that runs", _answers({200: interrupted}, 404, 409, 410, 503)),
            "parameters": [PID],
        },
        "/ticket": {
            "post": _op(
                "ticket",
                "A ticket for one WebSocket of a browser",
                _answers(
                    {201: _json("good for half a minute", _object(("ticket",), ticket=TEXT_TYPE))}, 404, 408, 413, 429
                ),
                body=ticket,
            )
        },
        "/healthz": {"get": {**_op("health", "Is the server there?", health), "security": []}},
        "/metrics": {"get": _op("metrics", "Figures for Prometheus", _answers({200: figures}))},
        "/openapi.json": {"get": {**_op("openapi", "This", {"200": _json("this")}), "security": []}},
    }
    error = _object(("error", "why"), error={"type": "string", "description": "a word for programs"}, why=TEXT_TYPE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "execgw",
            "version": __version__,
            "description": "Processes to talk to; see docs/http-protocol.md.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": error},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
