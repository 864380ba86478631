"""A channel sent over a channel: results on one, the worker's prints on another."""

import execgw


def work(channel: execgw.Channel, log: execgw.Channel) -> None:
    """Prints go to the channel that was sent along."""
    import sys

    sys.stdout = log.makefile("w")
    print("working")
    channel.send(6 * 7)
    log.close()


with execgw.makegateway("popen") as gateway:
    log = gateway.newchannel()
    channel = gateway.remote_exec(work, log=log)
    print("result:", channel.receive())
    print("log:", "".join(log).strip())
