"""A real exec-server process for tests, and clients of it.  Also a program: python exec_server.py POLICY."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

TOKENS = {name: f"execgw-test-token-of-{name}-0123456789abcdef" for name in ("joe", "ann", "boss")}
VARIABLE = "EXECGW_TEST_TOKENS"


class ExecServer:
    """A server in a process of its own; *policy* is the text of its TOML file.

    Tokens: joe and ann may start processes and talk to them; boss may do all.
    """

    def __init__(self, folder: Path, policy: str = "") -> None:
        self._folder = folder
        self._file = folder / "policy.toml"
        self._file.write_text(policy)
        self.log = folder / "server.log"
        self._clients: list[httpx.Client] = []

    def __enter__(self) -> ExecServer:
        words = [sys.executable, __file__, str(self._file)] if self._file.stat().st_size else [sys.executable, __file__]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.address = line.strip()
        self.url = f"http://{self.address}"
        return self

    def client(self, name: str | None = "joe") -> httpx.Client:
        """An HTTP client that has the token of that name, or none."""
        headers = {} if name is None else {"Authorization": f"Bearer {TOKENS[name]}"}
        made = httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)
        self._clients.append(made)
        return made

    def spec(self, *more: str, name: str = "joe") -> str:
        """The spec of a gateway through it, with the token of that name."""
        file = self._folder / f"token-of-{name}"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(TOKENS[name])
        return "//".join([f"http={self.address}", f"token=file:{file}", *more])

    def __exit__(self, *exc: object) -> None:
        for client in self._clients:
            client.close()
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def serve() -> None:
    """Serve on any port of 127.0.0.1, and print the address."""
    import tempfile

    import uvicorn

    from execgw.http.access import Access, TokenFile
    from execgw.http.app import make_app
    from execgw.http.policy import Policy, read_policy

    with tempfile.TemporaryDirectory() as folder:
        file = TokenFile(Path(folder) / "tokens")
        access = Access(file)
        _write_tokens(file)
        app = make_app(access, read_policy(sys.argv[1]) if len(sys.argv) > 1 else Policy())
        sock = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        server = uvicorn.Server(config)
        print(f"127.0.0.1:{sock.getsockname()[1]}", flush=True)
        asyncio.run(server.serve([sock]))


def _write_tokens(file: Any) -> None:
    import json

    from execgw.http.access import SCOPES, hash_of

    tokens = [
        {"name": name, "hash": hash_of(text), "scopes": [*SCOPES[: 3 if name == "boss" else 2]], "made": 0}
        for name, text in TOKENS.items()
    ]
    fd = os.open(file.path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, json.dumps({"tokens": tokens}).encode())
    os.close(fd)


if __name__ == "__main__":
    serve()
