"""Listeners that the tests of a file share, with their certificates."""

from __future__ import annotations

import pytest
from listener import Certificates, Listener


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A listener on 127.0.0.1."""
    with Listener(tmp_path_factory.mktemp("plain"), "127.0.0.1:0") as listener:
        yield listener


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory, certificates):
    """The same with TLS."""
    with Listener(tmp_path_factory.mktemp("secure"), "127.0.0.1:0", *certificates.words()) as listener:
        yield listener


@pytest.fixture(params=["plain", "ca", "sha256"])
def spec(request, plain, secure, certificates):
    """The spec of a listener without TLS, and with both ways of trust."""
    if request.param == "plain":
        return plain.spec()
    return secure.spec(f"tls=ca:{certificates.ca}" if request.param == "ca" else f"tls=sha256:{secure.fingerprint}")
