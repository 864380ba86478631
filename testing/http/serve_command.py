"""A real `execgw serve` for tests, and bare HTTP requests to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

EXECGW = [sys.executable, "-m", "execgw"]


def environment(**more: str) -> dict[str, str]:
    """That of a command, without what the tests' own surroundings would add."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXECGW_HTTP")}
    return {**kept, **more}


def execgw(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command that has ended."""
    argv = [*EXECGW, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment(**more))


class ExecServer:
    """A process that serves; `with` ends it.

    url, address  where; token  the first one; client  the spec that it shows to clients; log  what it wrote to stderr
    """

    def __init__(
        self, folder: Path, *words: str | Path, listen: str = "127.0.0.1:0", policy: str = "", **env: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.tokens = folder / "tokens"
        self.log = folder / "log"
        argv = [*EXECGW, "serve", "--listen", listen, "--token-file", str(self.tokens), *map(str, words)]
        if policy:
            (folder / "policy.toml").write_text(policy)
            argv += ["--policy", str(folder / "policy.toml")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(**env))
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("clients: "):
                break
        else:
            self.end()
            raise AssertionError(self.said + self.log.read_text())
        self.url = re.findall(r"execgw serves at (\S+)", self.said)[0]
        self.address = self.url.partition("://")[2]
        self.client = re.findall(r"clients: (\S+)", self.said)[0]
        owner = folder / "tokens.owner"
        self.token = owner.read_text().strip() if owner.exists() else env.get("EXECGW_HTTP_TOKEN", "")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.address.rpartition(":")[2])

    # -- requests

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """One request on a connection of its own; a body that is no text or bytes goes as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        token = self.token if token is None else token
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None and not isinstance(body, (str, bytes)):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def popen(self, token: str | None = None, **options: Any) -> str:
        """Start a process; its PID."""
        answer = self.ask("POST", "/popen", options, token)
        assert answer.status == 201, answer.body
        return str(answer.json["pid"])

    def run(self, source: str, token: str | None = None) -> str:
        """Start a process that runs this; its PID."""
        pid = self.popen(token)
        answer = self.ask("POST", f"/exec/{pid}", source, token, {"Content-Type": "text/x-python"})
        assert answer.status == 202, answer.body
        return pid

    def connect(self) -> socket.socket:
        """A connection by hand."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    # -- what it tells

    def events(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    # -- its end

    def send(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        self.send(number)
        return self.wait()

    def __enter__(self) -> ExecServer:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self.process.poll() is None:
            self.end()
        elif self.process.stdout is not None:
            self.process.stdout.close()


class Answer:
    """What came back; *headers* by their names in lower case."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body, read as text."""
        return self.body.decode()


def read_all(sock: socket.socket) -> bytes:
    """What comes until the end of a connection, be that orderly or not."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data
