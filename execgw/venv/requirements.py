"""What may be asked for: names, requirements, index addresses.  None becomes an option, a path or a secret shown.

The texts go to pip and uv as words behind `--`; what those would take for a path or an option is refused before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import SpecError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|tbz|txz|tlz|gz|bz2|xz|lzma)\Z", re.IGNORECASE)
SECRETS = re.compile(r"://[^/@\s]*@")


def check_name(name: str) -> str:
    """The name of an environment; SpecError if it could be anything else."""
    if not isinstance(name, str) or not NAME.match(name):
        raise SpecError(f"{str(name)[:80]!r} is no name of an environment: 1 to 64 of letters, digits and ._-")
    return name


def split(text: str) -> list[str]:
    """The requirements of one text: 'requests>=2 pytest', 'requests[socks]>=2,<3,pytest', one a line.

    A comma or a space before a version's operator or inside brackets goes on with the same requirement.
    """
    words: list[str] = []
    for line in text.splitlines():
        whole = line.strip()
        if ";" in whole or "@" in whole:  # a marker or an address: its words are not to be told apart
            words.append(whole)
            continue
        pieces = re.split(r"(?:\s*,\s*|\s+)(?![^\[]*\])", whole)
        open_end = False  # the last piece ends with an operator: 'requests >= 2'
        for piece in filter(None, pieces):
            if words and (open_end or re.match(r"[<>=!~\[]", piece)):
                glue = "," if re.match(r"[<>=!~]", piece) and re.search(r"[<>=!~]", words[-1]) else ""
                words[-1] += glue + piece
            else:
                words.append(piece)
            open_end = piece[-1] in "<>=!~"
    return words


def parse(requirements: str | Iterable[str], allow_paths: bool = False) -> tuple[str, ...]:
    """The requirements, one text each, in their normal form and order; SpecError for what is none."""
    texts = split(requirements) if isinstance(requirements, str) else list(requirements)
    return tuple(sorted({_checked(text, allow_paths) for text in texts}))


def _checked(text: str, allow_paths: bool) -> str:
    if not isinstance(text, str):
        raise SpecError(f"{text!r} is no requirement: give texts such as 'requests>=2'")
    shown = repr(SECRETS.sub("://****@", text)[:200])
    text = text.strip()
    if text.startswith("-") or not text.isprintable():
        raise SpecError(f"requirement {shown}: options are not taken; give names and versions")
    if SECRETS.search(text):
        raise SpecError(f"requirement {shown}: an address with a password would be shown in lists of processes")
    if allow_paths and re.match(r"[./~]", text):
        return text
    requirement = _parsed(text, shown)
    if not allow_paths and (requirement.url or ARCHIVE.search(requirement.name)):
        raise SpecError(f"requirement {shown}: names a file or an address; if that is meant: allow_paths=True")
    return str(requirement)


def _parsed(text: str, shown: str) -> Requirement:
    from .packages import requirements

    try:
        found: Requirement = requirements().Requirement(text)
    except ValueError as e:
        reason = str(e).splitlines()[0]
        path = " (paths are taken with allow_paths=True)" if re.match(r"[./~]", text) or "/" in text else ""
        raise SpecError(f"requirement {shown}: {reason}{path}") from None
    return found


def parse_versions(text: str | None) -> SpecifierSet | None:
    """What requires-python says."""
    from .packages import specifiers

    if not text:
        return None
    try:
        found: SpecifierSet = specifiers().SpecifierSet(text)
    except ValueError:
        raise SpecError(f"requires-python {text!r} is no set of versions; write it as '>=3.9,<3.13'") from None
    return found


def check_index(address: str, where: str) -> str:
    """The address of an index; one in a spec may hold no password, for specs are shown."""
    shown = repr(SECRETS.sub("://****@", address)[:200])
    if not re.match(r"(https?|file)://[^\s]+\Z", address):
        raise SpecError(f"{where}: {shown} is no address of an index: https://...")
    if where.endswith("=") and SECRETS.search(address):
        raise SpecError(
            f"{where}{shown}: specs are shown in errors and lists, so they take no password; "
            "use create_venv_gateway(index_url=...), or pip's own configuration there"
        )
    return address
