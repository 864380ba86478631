"""The encoder for interpreters before 3.8, whose picklers have no reducer_override."""

from io import BytesIO

from .codec import ALLOWED
from .compat import PY2
from .errors import LoadError
from .refusal import refusal
from .scan import scan
from .trees import Refused, pickle_module

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, List, Tuple  # noqa: F401


class Encoder(object):
    """For interpreters before 3.8: pickles first, then scans what came out for what must not travel."""

    def __init__(self, codec):
        # type: (Any) -> None
        self.codec = codec

    def encode(self, value):
        # type: (Any) -> Tuple[Any, List[Any]]
        sink = BytesIO()
        pickler = pickle_module.Pickler(sink, self.codec.protocol)
        pickler.fast = True
        pickler.dump(value)
        data = sink.getvalue()
        if PY2 or b"\x93" in data:
            try:
                scan(data, ALLOWED)
            except LoadError:
                raise Refused
            if refusal(self.codec, value):  # a class, or a channel of another session
                raise Refused
        return data, []
