"""Exec-servers for the tests of http/."""

from __future__ import annotations

import pytest
from exec_server import ExecServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without a policy file, which the tests of a file share."""
    with ExecServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def serving(tmp_path, nothing_left):
    """serving(policy) starts a server; afterwards nothing of it may be left."""
    made = []

    def serve(policy=""):
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        made.append(ExecServer(folder, policy).__enter__())
        return made[-1]

    yield serve
    for server in made:
        server.__exit__()


@pytest.fixture
def client(server):
    """joe, at the shared server; his processes are ended after the test."""
    client = server.client()
    yield client
    for process in client.get("/exec").json()["processes"]:
        client.delete(f"/exec/{process['pid']}")


@pytest.fixture
def start(client):
    """start(source) starts a process, runs source in it if there is any, and returns its path."""

    def start(source=None, **options):
        made = client.post("/popen", json=options)
        assert made.status_code == 201, made.text
        path = made.headers["location"]
        if source is not None:
            posted = client.post(path, content=source)
            assert posted.status_code == 202, posted.text
        return path

    return start
