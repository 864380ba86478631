"""The session of examples/curl.sh, over a real server."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import find_part
from exec_server import TOKENS

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "curl.sh"


def test_the_session_with_curl_works_as_it_stands(server, tmp_path):
    find_part("curl")
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKENS["joe"] + "\n")

    done = subprocess.run(["sh", str(SCRIPT), server.url, str(token)], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("1 + 1 = 2\n" + "12 * 12 = 144\n" * 3, 0), done.stderr
    assert len(SCRIPT.read_text().splitlines()) <= 40
