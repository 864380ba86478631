"""Deploying the user's own project: built on this side, installed in the environment of a gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ..errors import EnvironmentFailed, SpecError
from ..gateway import Gateway
from . import push
from .environment import Progress, ask
from .packages import build
from .requirements import SECRETS

FILES = ("pyproject.toml", "setup.py", "setup.cfg")


class SetupFile:
    """A Python project on this side: the path of its setup.py or pyproject.toml, or of its directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = Path(path)
        self.directory = (given if given.is_dir() else given.parent).resolve()
        if given.name not in FILES and not given.is_dir():
            raise SpecError(f"{str(given)!r} is no project: give its directory, or one of {', '.join(FILES)} in it")
        if not given.exists() or not any((self.directory / name).is_file() for name in FILES):
            raise SpecError(f"{str(given)!r}: there is no {' or '.join(FILES)} in {str(self.directory)!r}")

    def build(self, form: str, into: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Build it with `build`, as 'sdist' or 'wheel', and return the file, which is put into the directory *into*."""
        if form not in ("sdist", "wheel"):
            raise SpecError(f"form {form!r}: it is 'sdist' or 'wheel'")
        build()
        argv = [sys.executable, "-m", "build", f"--{form}", "--outdir", os.fspath(into)]
        if push.find_uv() is not None:
            argv += ["--installer", "uv"]
        places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        environ = {**os.environ, "PATH": os.pathsep.join(places), "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
        tail: list[str] = []
        with subprocess.Popen(
            [*argv, "--", str(self.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environ,
            cwd=into,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                text = re.sub(SECRETS, "://****@", line.rstrip())
                tail = [*tail, text][-30:]
                if progress is not None and text:
                    progress(text)
        made = [path for path in Path(into).iterdir() if path.name.endswith((".whl", ".tar.gz"))]
        if process.returncode or len(made) != 1:
            shown = "".join(f"\n  {line}" for line in tail)
            raise EnvironmentFailed(f"building {str(self.directory)!r} failed{shown}", output="\n".join(tail))
        return made[0]

    def sdist_remote_install(
        self,
        gw: Gateway,
        *,
        form: str = "sdist",
        wheelhouse: str | os.PathLike[str] | None = None,
        offline: bool = False,
        uv: str = "auto",
        progress: Progress | None = None,
    ) -> str:
        """Build the project here, install it in the environment that *gw*'s worker lives in; returns its file's name.

        *form* is 'sdist', which is built once more there, so C extensions fit; or 'wheel', which needs nothing there.
        What was installed of it before is replaced.  The other arguments are those of create_venv_gateway.
        Raises EnvironmentFailed if it cannot be built or installed.
        """
        with tempfile.TemporaryDirectory(prefix="execgw-build-") as folder:
            path = self.build(form, folder, progress)
            files = push.files_of(None if wheelhouse is None else os.fspath(wheelhouse), uv)
            files.paths[path.name] = path
            name: str = ask(
                gw,
                "install",
                progress,
                files,
                filename=path.name,
                project=re.split(r"-\d", path.name, maxsplit=1)[0],
                sha=push.sha256(path),
                offline=offline or wheelhouse is not None,
                **files.told(),
            )
        return name
