"""Environments on the fly: a virtual environment through a gateway, and a gateway that lives in it.

newgw = execgw.venv.create_venv_gateway(gw, "name", "requests>=2 pytest")
execgw.venv.SetupFile("setup.py").sdist_remote_install(newgw)
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..gateway import Gateway
from .environment import Progress, beside, make, wanted
from .project import SetupFile


def create_venv_gateway(
    gw: Gateway,
    name: str,
    requirements: str | Iterable[str] = "",
    *,
    id: str | None = None,  # the key's name
    requires_python: str | None = None,
    wheelhouse: str | os.PathLike[str] | None = None,
    offline: bool = False,
    uv: str = "auto",
    index_url: str | None = None,
    extra_index_urls: Iterable[str] = (),
    allow_paths: bool = False,
    progress: Progress | None = None,
) -> Gateway:
    """Return a new gateway of *gw*'s group to a worker in a virtual environment on the host of *gw*'s worker.

    The environment is built on first use from *requirements*, texts as of pip ('requests>=2 pytest', or a list), and
    kept there: the same name, requirements, interpreter and settings give the same one.  The worker's working
    directory is the environment's home, and its temporary directory is the environment's own.
    *requires_python*  such as '>=3.9': another interpreter is looked for if the worker's own is not among these
    *wheelhouse*   a directory of wheels on this side, which are pushed there; no index is asked
    *offline*      never use the network
    *uv*           'auto': if it is there; 'push': this side's own, if it is not; 'no': venv and pip
    *index_url*, *extra_index_urls*  instead of what pip and uv are configured for there; may hold passwords
    *allow_paths*  take requirements that are paths there, or addresses
    *progress*     is called with each line about what is being done
    Raises SpecError for a wrong name or requirement, and EnvironmentFailed with the last lines of pip or uv.
    """
    want = wanted(
        name,
        requirements,
        requires_python=requires_python,
        wheelhouse=wheelhouse,
        offline=offline,
        uv=uv,
        index_url=index_url,
        extra_index_urls=extra_index_urls,
        allow_paths=allow_paths,
    )
    return beside(gw, make(gw, want, progress), id)


__all__ = ["SetupFile", "create_venv_gateway"]
