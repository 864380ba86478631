"""The RemoteError that a CLOSE frame stands for.  Not in the bundle: few workers are told of errors."""

from ..wire.errors import RemoteError
from .faults import as_text

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any  # noqa: F401


def unpack_error(codec, payload):
    # type: (Any, bytes) -> RemoteError
    """The exception that a CLOSE's payload stands for."""
    try:
        fault = codec.decode(bytearray(payload[:1])[0], payload[1:])
        if not codec.trusted:
            from ..wire.careful import careful_fault

            fault = careful_fault(fault)
        if isinstance(fault, dict):
            return RemoteError.kinds.get(fault["type"], RemoteError)(fault["formatted"], fault)  # type: ignore[no-any-return]
        return RemoteError(as_text(fault))
    except Exception as e:  # nor are its details what they should be
        return RemoteError("an error that cannot be read: %s" % (e,))
