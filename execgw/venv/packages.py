"""The packages of the extra [venv], imported when they are needed, with an error that says what to install."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..errors import StartError


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        top = name.partition(".")[0]
        raise StartError(
            f"environments need the package {top!r} on this side ({e}); try: pip install 'execgw[venv]'"
        ) from e


def requirements() -> Any:
    """packaging.requirements"""
    return _package("packaging.requirements")


def specifiers() -> Any:
    """packaging.specifiers"""
    return _package("packaging.specifiers")


def build() -> Any:
    """The package that builds projects."""
    return _package("build")


def toml() -> Any:
    """tomllib, or its twin for Python 3.10."""
    return _package("tomllib" if sys.version_info >= (3, 11) else "tomli")
