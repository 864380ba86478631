"""Hear of every value and of every end, whichever worker it comes from."""

import threading

import execgw

SOURCE = """
for number in range(3):
    channel.send(number)
if channel.receive() == "fail":
    raise ValueError("as I was told")
"""


def listen(channel: execgw.Channel, name: str, ended: threading.Event) -> None:
    """Print what comes on a channel."""

    def heard(item: object, error: Exception | None = None) -> None:
        if item is not END:
            print(name, "says", item)
        else:
            print(name, "has ended:", type(error).__name__ if error else "in order")
            ended.set()

    channel.setcallback(heard, endmarker=END, pass_error=True)


END = object()

with execgw.Group(["popen//id=good", "popen//id=bad"]) as group:
    for gateway, order in zip(group, ["go on", "fail"], strict=True):
        ended = threading.Event()
        channel = gateway.remote_exec(SOURCE)
        listen(channel, gateway.id, ended)
        channel.send(order)
        ended.wait()
