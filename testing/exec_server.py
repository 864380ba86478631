"""A real exec-server process for tests, and clients of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from execgw.http.access import SCOPES, hash_of

TOKENS = {name: f"execgw-test-token-of-{name}-0123456789abcdef" for name in ("joe", "ann", "boss")}


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
        tokens = self._folder / "tokens"
        _write_tokens(tokens)
        words = [sys.executable, "-m", "execgw", "serve", "--listen", "127.0.0.1:0", "--token-file", str(tokens)]
        if self._file.stat().st_size:
            words += ["--policy", str(self._file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("execgw serves at "), self.log.read_text()
        self.url = line.split()[-1]
        self.address = self.url.partition("://")[2]
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


def _write_tokens(path: Path) -> None:
    tokens = [
        {"name": name, "hash": hash_of(text), "scopes": [*SCOPES[: 3 if name == "boss" else 2]], "made": 0}
        for name, text in TOKENS.items()
    ]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        json.dump({"tokens": tokens}, file)
