"""What http= and its keys may say; each mistake is told before anything is started, with what to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from listener import write_token

from execgw import Group, SpecError, StartError, XSpec
from execgw.http.client_server import server_of


def refused(group: Group, spec: str) -> str:
    with pytest.raises(SpecError) as caught:
        group.makegateway(spec)
    return str(caught.value)


@pytest.mark.parametrize(
    "text, url",
    [
        ("http=127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http=codespeak.net", "http://codespeak.net:80"),
        ("http=[::1]:8000", "http://[::1]:8000"),
        ("http=https://host.example", "https://host.example:443"),
        ("http=https://host.example:8443/a/b/", "https://host.example:8443/a/b"),
        ("http=http://host.example:80/prefix", "http://host.example:80/prefix"),
        (f"http=host.example:99//tls=sha256:{'ab' * 32}", "https://host.example:99"),
    ],
)
def test_a_spec_names_a_server(text: str, url: str) -> None:
    assert server_of(XSpec(text), "gateway 'x'").url == url


def test_the_slashes_of_a_url_are_no_separator_and_keys_may_follow(tmp_path: Path) -> None:
    token = write_token(tmp_path)

    spec = XSpec(f"http=https://host:1/prefix//token=file:{token}//id=one")

    assert (spec.http, spec.token, spec.id) == ("https://host:1/prefix", f"file:{token}", "one")


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host",
        "host:port",
        "host:99999",
        "-oProxyCommand=x",
        "-host:80",
        "user:secret@host:80",
        "host:80?token=x",
        "host:80#x",
        "https://",
        "ho st:80",
        "host\r\nX:80",
    ],
)
def test_what_is_no_server_is_refused(group: Group, text: str) -> None:
    assert "HOST:PORT" in refused(group, f"http={text}")


def test_http_alone_is_told_what_it_needs(group: Group) -> None:
    assert "http=HOST:PORT" in refused(group, "http")


def test_a_token_crosses_no_network_in_the_clear_unless_the_user_says_so(group: Group, tmp_path: Path) -> None:
    token = write_token(tmp_path)

    said = refused(group, f"http=host.example:80//token=file:{token}")

    assert "http=https://host.example:80" in said and "http=http://host.example:80" in said
    for trusted in ("http=http://host.example:80", "http=127.0.0.1:80", "http=localhost:80", "http=[::1]:80"):
        assert server_of(XSpec(f"{trusted}//token=file:{token}"), "x").token is not None


def test_no_secret_is_shown_with_the_server(tmp_path: Path) -> None:
    token = write_token(tmp_path)

    server = server_of(XSpec(f"http=127.0.0.1:80//token=file:{token}"), "x")

    assert token.read_text().strip() not in repr(server) + str(server)
    assert server.headers() == {"Authorization": f"Bearer {token.read_text().strip()}"}


@pytest.mark.parametrize(
    "more, hint",
    [
        ("python=python3", "spec=NAME"),
        ("dont_write_bytecode", "spec=NAME"),
        ("nice=3", "spec=NAME"),
        ("websocket=maybe", "yes or no"),
        ("spec", "spec=NAME"),
        ("resume=soon", "no time in seconds"),
        ("resume=-1", "no time in seconds"),
        ("resume=nan", "no time in seconds"),
        ("token=secretsecretsecret", "token=file:PATH"),
        ("tls=yes", "ca:FILE"),
        ("keepalive=x", "no time in seconds"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_with_what_to_write(group: Group, more: str, hint: str) -> None:
    assert hint in refused(group, f"http=127.0.0.1:1//{more}")


def test_tls_with_a_url_that_has_none_is_refused(group: Group) -> None:
    assert "http=https://host:1" in refused(group, f"http=http://host:1//tls=sha256:{'ab' * 32}")


def test_a_server_is_not_reached_through_another_gateway(group: Group) -> None:
    group.makegateway("memory//id=first")

    assert "via= cannot be given with http=" in refused(group, "http=127.0.0.1:1//via=first")


def test_without_the_extra_the_error_says_what_to_install(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "websockets.client", None)
    for name in [name for name in sys.modules if name.startswith("execgw.http.client")]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(StartError, match=re.escape("pip install 'execgw[http]'")):
        group.makegateway("http=127.0.0.1:1")
