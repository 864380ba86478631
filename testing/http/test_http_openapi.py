"""Requests that schemathesis makes up from GET /openapi.json: whatever they hold, none makes the server stumble."""

from __future__ import annotations

import random

import pytest
from exec_server import ExecServer
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, openapi

import execgw

OPERATIONS = [
    "popen",
    "run",
    "list",
    "send",
    "receive",
    "end",
    "stream",
    "state",
    "output",
    "interrupt",
    "ticket",
    "metrics",
    "health",
]
WITHOUT_INPUT = {"health"}  # of which no nonsense can be made
POLICY = "[specs.python]\n[server]\nper_token = 6\n"
SOME = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    with ExecServer(tmp_path_factory.mktemp("server"), POLICY) as server:
        yield server


@pytest.fixture(scope="module")
def described(strict):
    return openapi.from_url(f"{strict.url}/openapi.json")


@pytest.fixture
def pids(strict):
    """A process for each state that one may be in."""
    client = strict.client("boss")
    for process in client.get("/exec").json()["processes"]:
        client.delete(f"/exec/{process['pid']}")
    new = client.post("/popen").json()["pid"]
    busy = client.post("/exec", content="for item in channel: channel.send(item)").json()["pid"]
    frames = client.post("/popen", json={"protocol": "frames", "version": execgw.__version__}).json()["pid"]
    over = client.post("/popen").json()["pid"]
    client.delete(f"/exec/{over}")
    return [new, busy, frames, over, "0" * 32]


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_made_up_request_makes_the_server_stumble(strict, described, pids, name):
    operation = next(op.ok() for op in described.get_all_operations() if op.ok().definition.raw["operationId"] == name)
    headers = {"Authorization": strict.client("boss").headers["authorization"]}
    rng = random.Random(1)

    def ask(case):
        if "pid" in (case.path_parameters or {}):
            # A stream of what lives never ends.
            case.path_parameters["pid"] = rng.choice(pids[3:] if name == "stream" else pids)
        if isinstance((case.query or {}).get("wait"), (int, float)):
            case.query["wait"] = 0
        answer = case.call(headers=headers, timeout=20)
        assert answer.status_code != 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]
            assert answer.json()["why"]

    modes = [GenerationMode.POSITIVE] if name in WITHOUT_INPUT else list(GenerationMode)
    for mode in modes:
        SOME(given(case=operation.as_strategy(generation_mode=mode))(ask))()
