"""Test code that uses gateways without starting a process: the memory gateway."""

import execgw


def word_lengths(gateway: execgw.Gateway, words: list[str]) -> dict[str, int]:
    """The code under test: it takes any gateway."""
    channel = gateway.remote_exec("for word in channel: channel.send(len(word))")
    lengths = {}
    for word in words:
        channel.send(word)
        lengths[word] = channel.receive()
    channel.close()
    return lengths


with execgw.Group() as group:
    assert word_lengths(group.makegateway("memory"), ["one", "three"]) == {"one": 3, "three": 5}
    print("passed, and no process was started")
