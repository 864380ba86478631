"""A worker outlives the process that started it: detach, and go on in another one.

python examples/resume.py
"""

import subprocess
import sys

import execgw

LATER = """
import sys, execgw
number, ticket = sys.stdin.read().split()
gateway = execgw.attach(ticket)
channel = gateway.channels[int(number)]
print("another process receives", [channel.receive() for _ in range(3)])
channel.send("bye")
channel.waitclose()
gateway.exit()
"""


def count(channel):
    """Runs in the worker, whoever is on the other side."""
    for number in range(5):
        channel.send(number)
    channel.receive()


gateway = execgw.makegateway("popen//resume=60")
channel = gateway.remote_exec(count)
print("this process receives", channel.receive(), channel.receive(), flush=True)
ticket = gateway.detach()  # a secret: not for arguments or logs
subprocess.run([sys.executable, "-c", LATER], input=f"{channel.id} {ticket}", text=True, check=True)
