"""What clients may start: the operator's policy, and what they try to get past it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import execgw
from execgw.errors import SpecError
from execgw.http.access import Caller, Denied
from execgw.http.limits import Limits, ServerLimits, read_seconds, read_size
from execgw.http.policy import Policy, build, parse_policy, read_policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAPTOP = Caller("laptop", frozenset({"popen", "exec"}))
READER = Caller("reader", frozenset({"exec"}))

POLICY = """
default = "python"
[limits]
memory = "1 GiB"
[server]
processes = 8
[specs.python]
python = ["/usr/bin/python3", "-X", "utf8"]
env = { LANG = "C.UTF-8", EMPTY = "" }
chdir = "/srv/work"
nice = 5
about = "the plain one"
[specs.big]
python = "python3"
tokens = ["cluster"]
limits = { memory = "8 GiB", cpu = "10 min", idle = false }
"""


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return read_policy(path)


def refusal(policy: Policy, body: dict[str, object], caller: Caller = LAPTOP) -> Denied:
    with pytest.raises(Denied) as caught:
        policy.choose(body, caller)
    return caught.value


def test_a_client_that_says_nothing_gets_the_default(policy: Policy) -> None:
    start = policy.choose({}, LAPTOP)

    assert (start.name, start.limits) == ("python", Limits(memory=1 << 30))
    spec = execgw.XSpec(start.spec)
    assert shlex.split(spec.python) == ["/usr/bin/python3", "-X", "utf8"]
    assert (spec.popen, spec.chdir, spec.nice) == (True, "/srv/work", "5")
    assert spec.env == {"LANG": "C.UTF-8", "EMPTY": ""}
    assert policy.server.processes == 8


def test_a_spec_may_be_for_some_tokens_alone(policy: Policy) -> None:
    start = policy.choose({"spec": "big"}, Caller("cluster", frozenset({"popen"})))

    assert start.limits == Limits(memory=8 << 30, cpu=600, idle=None)
    assert policy.offered(LAPTOP) == {"python": "the plain one"}


def test_a_spec_of_others_looks_like_one_that_there_is_not(policy: Policy) -> None:
    foreign, missing = refusal(policy, {"spec": "big"}), refusal(policy, {"spec": "bog"})

    assert (foreign.status, foreign.word) == (403, "policy")
    assert foreign.why == missing.why.replace("bog", "big")
    assert "it may start: python" in foreign.why


def test_a_name_that_is_nearly_right_gets_a_hint(policy: Policy) -> None:
    assert "did you mean 'python'?" in refusal(policy, {"spec": "pyhton"}).why


def test_a_token_without_the_scope_starts_nothing(policy: Policy) -> None:
    denied = refusal(policy, {}, READER)

    assert (denied.status, denied.word) == (403, "scope")


RAW_KEYS = [
    {"python": "/bin/sh -c 'touch {canary}'"},
    {"python": ["/bin/sh", "-c", "touch {canary}"]},
    {"chdir": "/tmp//python=/bin/sh -c 'touch {canary}'"},
    {"env": {"LD_PRELOAD": "/tmp/evil.so"}},
    {"nice": -20},
    {"execmodel": "thread//python=touch {canary}"},
]


@pytest.mark.parametrize("keys", RAW_KEYS, ids=str)
def test_keys_of_a_spec_are_refused_from_a_client(policy: Policy, keys: dict[str, object]) -> None:
    denied = refusal(policy, keys)

    assert (denied.status, denied.word) == (403, "policy")
    assert "takes no" in denied.why and repr(next(iter(keys))) in denied.why


def injections(canary: Path) -> list[str]:
    """What a client might send as the name of a spec."""
    touch = f"touch {canary}"
    return [
        f"python//python={touch}",
        f"popen//python=/bin/sh -c '{touch}'",
        f"ssh=-oProxyCommand={touch}",
        f"cmd={touch}",
        "popen//env:LD_PRELOAD=/tmp/evil.so",
        "python//",
        "../python",
        "python\n",
        "python\0",
        "raw",
        "",
        "__class__",
    ]


def test_no_text_in_place_of_a_name_starts_a_program(policy: Policy, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    for text in injections(canary):
        assert refusal(policy, {"spec": text}).status == 403, text
    for strange in (1, [], {"popen": True}, True):
        assert refusal(policy, {"spec": strange}).status == 400, strange

    assert not canary.exists()


@pytest.mark.parametrize("key", ["python", "chdir", "execmodel"])
def test_a_value_with_two_slashes_is_no_second_key(key: str) -> None:
    with pytest.raises(SpecError):
        build({key: "work//python=/bin/sh"}, "the request")


@pytest.mark.parametrize(
    "keys",
    [
        {"env": {"A": "x//python=/bin/sh"}},
        {"env": {"A//python=/bin/sh": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"A\0": "x"}},
        {"env": {"": "x"}},
        {"env": ["A=x"]},
        {"python": "a:", "chdir": "b"},
        {"python": ["-c", "x"]},
        {"python": []},
        {"python": "'unclosed"},
        {"chdir": "a\0b"},
        {"nice": "5//python=x"},
        {"nice": True},
        {"nice": 20},
        {"execmodel": "gevent"},
        {"dont_write_bytecode": "yes"},
    ],
    ids=str,
)
def test_values_that_would_mean_something_else_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        build(keys, "the request")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "python": st.lists(st.text(alphabet="ab/=: '\"\\-é\n", min_size=1, max_size=12), min_size=1, max_size=3),
            "chdir": st.text(alphabet="ab/=: -\n", min_size=1, max_size=12),
            "env": st.dictionaries(
                st.text(alphabet="AB/:=", min_size=1, max_size=6), st.text(alphabet="ab/=:", max_size=8)
            ),
            "nice": st.integers(-20, 19),
        },
    )
)
def test_a_spec_that_is_built_means_what_went_in_or_is_refused(keys) -> None:
    try:
        spec = execgw.XSpec(build(keys, "the request"))
    except SpecError:
        return

    assert spec.env == keys.get("env", {})
    assert spec.chdir == keys.get("chdir")
    assert spec.nice == (str(keys["nice"]) if "nice" in keys else None)
    assert (shlex.split(spec.python) if spec.python else None) == keys.get("python")
    assert set(spec.keys()) == {"popen", *keys} - {"env"}


def test_the_operator_may_let_clients_say_all_of_it() -> None:
    policy = parse_policy({"raw": True, "limits": {"memory": "1 GiB"}})

    start = policy.choose({"python": sys.executable, "env": {"A": "1"}}, LAPTOP)

    assert start.limits.memory == 1 << 30
    with execgw.Group() as group:
        gateway = group.makegateway(start.spec)
        assert gateway.remote_exec("import os; channel.send(os.environ['A'])").receive() == "1"
    assert policy.choose({}, LAPTOP).spec == "popen"
    assert refusal(policy, {"python": "python3", "chdir": "a//python=b"}).status == 400


def test_a_name_and_keys_in_one_request_are_refused() -> None:
    policy = parse_policy({"raw": True, "specs": {"python": {}}})

    assert refusal(policy, {"spec": "python", "chdir": "/"}).status == 400


def test_the_words_of_a_command_arrive_as_they_are(tmp_path: Path) -> None:
    words = [sys.executable, "-X", "utf8", "-W", "ignore::x y:'\"$(touch canary)"]
    policy = parse_policy({"specs": {"odd": {"python": words}}})

    with execgw.Group() as group:
        gateway = group.makegateway(policy.choose({}, LAPTOP).spec)
        said = gateway.remote_exec("import sys; channel.send(sys.warnoptions)").receive()

    assert said == ["ignore::x y:'\"$(touch canary)"]


def test_without_a_file_the_servers_own_python_can_be_started() -> None:
    start = Policy().choose({}, LAPTOP)

    assert (start.name, start.spec) == ("python", "popen")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("specs = 1", "specs is a table of tables"),
        ("", "names no spec"),
        ("[specs.x]\npyhton = 'a'", "specs.x: there is no key 'pyhton'; did you mean 'python'?"),
        ("[spec.x]", "there is no key 'spec'; did you mean 'specs'?"),
        ("default = 'y'\n[specs.x]", "there is no [specs.y]; there are x"),
        ("[specs.x.limits]\nmemory = 'lots'", "specs.x.limits.memory: 'lots' is not a number of bytes"),
        ("[specs.x]\ntokens = 'laptop'", "tokens is a list"),
        ("[specs.raw]", "'raw' is no name for a spec"),
        ("[specs.'a b']", "'a b' is no name for a spec"),
        ("[specs.x]\nchdir = 'a//b'", "specs.x: '//' separates"),
        ("[specs.x]\nenv = {A = 1}", "env.A is a text"),
        ("[server]\nprocesses = 0\n[specs.x]", "server.processes: 0 is not a number of 1 or more"),
        ("raw = 'yes'", "raw is true or false"),
        ("origins = 'x'\n[specs.x]", "origins is a list"),
        ("[specs.x", "this is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)

    with pytest.raises(SpecError) as caught:
        read_policy(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        read_policy(tmp_path / "none.toml")


def test_the_policy_needs_nothing_of_the_servers_packages() -> None:
    program = (
        "import sys; import execgw.http.policy, execgw.http.limits, execgw.http.access\n"
        "print(sorted({'starlette', 'uvicorn', 'httpx', 'websockets'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "http-server.md"


def test_each_policy_of_the_guide_is_one() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)

    policies = [parse_policy(tomllib.loads(block)) for block in blocks]

    assert [list(policy.specs) for policy in policies] == [["python", "large"], ["guest", "jail"]]
    assert policies[0].choose({}, LAPTOP).limits.memory == 2 << 30


def test_the_limits_of_the_guide_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| ([^|]+) \|", GUIDE.read_text("utf-8")))
    defaults = {**vars(Limits()), **vars(ServerLimits())}

    assert set(defaults) <= set(rows)
    for name, default in defaults.items():
        said = rows[name].strip('"` ')
        reader = read_size if name in ("memory", "queue", "body", "header") else read_seconds
        assert (None if said == "none" else reader(said)) == default, name
