"""Tokens, scopes and tickets of the exec-server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from execgw.errors import SpecError
from execgw.http.access import MOST_TICKETS, SCOPES, TICKET_SECONDS, Access, Caller, Denied, TokenFile, check_origin


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def refusal(call, *args) -> Denied:
    with pytest.raises(Denied) as caught:
        call(*args)
    return caught.value


# -- tokens


def test_who_sends_a_token_is_who_it_was_made_for(file: TokenFile) -> None:
    token = file.add("laptop", ("popen", "exec"))

    caller = Access(file).identify(bearer(token))

    assert caller == Caller("laptop", frozenset({"popen", "exec"}))
    assert not caller.is_admin


def test_the_token_itself_is_in_no_file(file: TokenFile, tmp_path: Path) -> None:
    token = file.add("laptop")

    written = [path.read_text() for path in tmp_path.iterdir()]

    assert written and not any(token in text for text in written)
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": "Basic eA=="}]
)
def test_without_a_token_one_is_told_how_to_send_it(file: TokenFile, headers: dict[str, str]) -> None:
    denied = refusal(Access(file).identify, headers)

    assert (denied.status, denied.word) == (401, "token")
    assert "Authorization: Bearer" in denied.why


@pytest.mark.parametrize("wrong", ["x", "execgw_", "\udcff", "é" * 50])
def test_a_wrong_token_is_refused(file: TokenFile, wrong: str) -> None:
    file.add("laptop")

    assert refusal(Access(file).knows, wrong).status == 401


def test_part_of_a_token_is_no_token(file: TokenFile) -> None:
    token = file.add("laptop")
    access = Access(file)

    for wrong in (token[:-1], token + "x", token.swapcase(), token.removeprefix("execgw_")):
        assert refusal(access.knows, wrong).status == 401
    assert refusal(access.knows, json.loads(file.path.read_text())["tokens"][0]["hash"]).status == 401


def test_a_revoked_token_is_refused_by_the_next_request(file: TokenFile) -> None:
    token = file.add("laptop")
    access = Access(file)
    caller = access.knows(token)

    file.revoke("laptop")

    assert "revoked" in refusal(access.knows, token).why
    assert "revoked" in refusal(access.check, caller).why


def test_a_token_expires_to_the_second(file: TokenFile) -> None:
    clock = Clock()
    token = file.add("laptop", SCOPES, 60.0, clock)
    access = Access(file, now=clock)

    clock.now += 59.9
    assert access.knows(token).name == "laptop"

    clock.now += 0.2
    denied = refusal(access.knows, token)
    assert (denied.status, "has expired" in denied.why) == (401, True)


def test_tokens_that_are_made_while_the_server_runs_are_taken(file: TokenFile) -> None:
    access = Access(file)
    assert refusal(access.knows, "x").status == 401

    first, second = file.add("one"), file.add("two")

    assert [access.knows(first).name, access.knows(second).name] == ["one", "two"]


def test_a_damaged_file_lets_nobody_in_and_a_mended_one_does(file: TokenFile) -> None:
    token = file.add("laptop")
    access = Access(file)
    whole = file.path.read_text()
    assert access.knows(token)

    file.path.write_text(whole[: len(whole) // 2])
    denied = refusal(access.knows, token)
    file.path.write_text(whole)

    assert (denied.status, token in denied.why) == (503, False)
    assert access.knows(token).name == "laptop"


def test_a_file_that_others_may_read_is_refused_with_the_command_that_helps(file: TokenFile) -> None:
    file.add("laptop")
    os.chmod(file.path, 0o640)

    with pytest.raises(SpecError, match=f"mode 640.*chmod 600 {file.path}"):
        file.read()


def test_a_file_that_is_gone_lets_nobody_in(file: TokenFile) -> None:
    token = file.add("laptop")
    access = Access(file)
    assert access.knows(token)

    file.path.unlink()

    assert refusal(access.knows, token).status == 401


@pytest.mark.parametrize("name", ["", "-rf", "a b", "../x", "a" * 65, "a\n"])
def test_a_name_that_is_none_is_refused(file: TokenFile, name: str) -> None:
    with pytest.raises(SpecError, match="no name"):
        file.add(name)


def test_a_name_belongs_to_one_token_for_ever(file: TokenFile) -> None:
    file.add("laptop")
    file.revoke("laptop")

    with pytest.raises(SpecError, match="take another name"):
        file.add("laptop")


def test_a_scope_that_there_is_not_is_refused(file: TokenFile) -> None:
    with pytest.raises(SpecError, match="popen, exec, admin"):
        file.add("laptop", ("root",))


def test_to_revoke_what_there_is_not_tells_what_there_is(file: TokenFile) -> None:
    file.add("laptop")

    with pytest.raises(SpecError, match="it has laptop"):
        file.revoke("lptop")


def test_a_scope_that_the_token_has_not_is_named(file: TokenFile) -> None:
    caller = Access(file).knows(file.add("reader", ("exec",)))

    denied = refusal(caller.need, "popen")

    assert (denied.status, denied.word) == (403, "scope")
    assert "'popen'" in denied.why and "has exec" in denied.why


def test_processes_that_make_tokens_at_the_same_time_lose_none(file: TokenFile) -> None:
    program = (
        "import sys; from execgw.http.access import TokenFile\n"
        "for number in range(10): TokenFile(sys.argv[1]).add(f'{sys.argv[2]}-{number}')"
    )
    makers = [subprocess.Popen([sys.executable, "-c", program, str(file.path), f"maker{n}"]) for n in range(3)]

    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    assert len({token.name for token in file.read()}) == 30


def test_a_token_of_the_environment_is_taken_beside_those_of_the_file(file: TokenFile) -> None:
    access = Access(file, given="0123456789abcdef")

    assert access.knows("0123456789abcdef") == Caller("environment", frozenset(SCOPES))
    assert access.knows(file.add("laptop")).name == "laptop"


# -- tickets


def test_a_ticket_is_good_once(file: TokenFile) -> None:
    access = Access(file)
    caller = access.knows(file.add("laptop"))
    ticket = access.ticket(caller, "PID")

    assert access.redeem(ticket, "PID") == caller
    assert refusal(access.redeem, ticket, "PID").status == 401


def test_of_those_who_redeem_one_ticket_at_the_same_time_one_is_let_in(file: TokenFile) -> None:
    access = Access(file)
    ticket = access.ticket(access.knows(file.add("laptop")))
    let_in = []
    barrier = threading.Barrier(8)

    def redeem() -> None:
        barrier.wait()
        try:
            let_in.append(access.redeem(ticket))
        except Denied:
            pass

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(let_in) == 1


def test_a_ticket_for_one_purpose_is_used_up_by_another(file: TokenFile) -> None:
    access = Access(file)
    ticket = access.ticket(access.knows(file.add("laptop")), "PID")

    assert refusal(access.redeem, ticket, "another").status == 401
    assert refusal(access.redeem, ticket, "PID").status == 401


def test_a_ticket_lives_for_half_a_minute(file: TokenFile) -> None:
    clock = Clock()
    access = Access(file, now=clock)
    ticket = access.ticket(access.knows(file.add("laptop")))

    clock.now += TICKET_SECONDS

    assert refusal(access.redeem, ticket).status == 401


def test_a_ticket_is_worth_nothing_once_its_token_is_revoked(file: TokenFile) -> None:
    access = Access(file)
    ticket = access.ticket(access.knows(file.add("laptop")))

    file.revoke("laptop")

    assert "revoked" in refusal(access.redeem, ticket).why


def test_tickets_that_nobody_uses_are_bounded_and_forgotten(file: TokenFile) -> None:
    clock = Clock()
    access = Access(file, now=clock)
    caller = access.knows(file.add("laptop"))
    for _ in range(MOST_TICKETS):
        access.ticket(caller)

    denied = refusal(access.ticket, caller)
    clock.now += TICKET_SECONDS

    assert (denied.status, denied.retry_after) == (429, TICKET_SECONDS)
    assert access.redeem(access.ticket(caller)) == caller


# -- other sites


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "here:1"),
        ("http://here:1", "here:1"),
        ("https://here", "here"),
        ("https://HERE:1", "here:1"),
        ("https://dash.example", "here:1"),
    ],
)
def test_a_page_of_this_site_or_of_a_named_one_may(origin: str | None, host: str) -> None:
    headers = {"host": host, **({} if origin is None else {"origin": origin})}

    check_origin(headers, {"https://dash.example"})


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "here:1",
        "http://here",
        "http://here:2",
        "http://here:1.evil",
        "http://evil/here:1",
        "file://here:1",
        "http://",
    ],
)
def test_a_page_of_another_site_may_not(origin: str) -> None:
    denied = refusal(check_origin, {"origin": origin, "host": "here:1"})

    assert (denied.status, denied.word) == (403, "origin")
    assert refusal(check_origin, {"origin": origin}).status == 403
