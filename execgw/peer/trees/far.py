"""What the far half does: a Receiver, or a Sender that walks its own tree."""

import os

from . import contents, files, listing, places, receive, send

if False:  # for mypy only: Python 2.7 has no typing module
    from typing import Any, Dict, List  # noqa: F401


def pack_options(options):
    # type: (Dict[bytes, bytes]) -> bytes
    """Keys and values in one message; a value has no NUL."""
    return b"O" + b"\0".join([part for item in options.items() for part in item])


def unpack_options(data):
    # type: (bytes) -> Dict[bytes, bytes]
    parts = data[1:].split(b"\0")
    return dict(zip(parts[::2], parts[1::2]))


class Telling(send.Sender):
    """A sender that tells the other side what it cannot read."""

    def on_unreadable(self, number, error):
        # type: (int, Exception) -> None
        tell(self.channel, self.content.path(number), contents.reason(error))


def tell(channel, path, text):
    # type: (Any, bytes, Any) -> None
    """One sentence about a path of this side."""
    if not isinstance(text, bytes):
        text = text.encode("utf-8", "replace")
    channel.send(b"!" + path + b"\0" + text)


def serve(channel, data):
    # type: (Any, bytes) -> None
    """One run.  That it cannot begin is told in a sentence."""
    given = unpack_options(data)
    try:
        run = _prepare(channel, given, given[b"path"])
    except (OSError, IOError, ValueError) as e:
        text = "cannot use %r there: %s" % (given[b"path"].decode("utf-8", "replace"), contents.reason(e))
        channel.send(b"Q" + text.encode("utf-8", "replace"))
    else:
        run()


def _prepare(channel, given, path):
    # type: (Any, Dict[bytes, bytes], bytes) -> Any
    if given[b"role"] == b"receiver":
        options = {"path": path, "source": given.get(b"source", b""), "direct": given.get(b"direct")}  # type: Dict[str, Any]
        for name in ("delete", "checksum", "dry_run", "judge"):
            options[name] = given.get(name.encode("ascii")) == b"1"
        return receive.Receiver(channel, options).run
    rules = given.get(b"rules", b"")
    patterns = listing.Patterns(rules.decode("latin-1").split("\n") if rules else [])
    root = places.open_root(path)
    channel.send(b"@" + places.as_bytes(os.path.abspath(places.native(path))))
    walk = listing.Walk(
        root,
        patterns.hides if rules else None,
        lambda where, text: tell(channel, where, text),
        given.get(b"links", b"preserve").decode("ascii"),
        given.get(b"protect", b"1") == b"1",
    )
    run = Telling(channel, files.Content(walk), walk, given.get(b"dry_run") == b"1").run

    def run_and_close():
        # type: () -> None
        try:
            run()
        finally:
            walk.places.close()

    return run_and_close
