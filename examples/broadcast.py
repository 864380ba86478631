"""Run the same code in many workers and collect an answer from each."""

import execgw


def squares(channel: execgw.Channel, base: int) -> None:
    """Runs in every worker."""
    channel.send(base + channel.receive() ** 2)


with execgw.Group(["popen"] * 3) as group:
    channels = group.remote_exec(squares, base=100)
    for number, channel in enumerate(channels):
        channel.send(number)
    print(channels.receive_each())
    channels.waitclose()
