"""The session that the HTTP exec-server was made for: over_http.py http=127.0.0.1:8642//token=file:TOKEN."""

import sys

import execgw


def fun(channel):
    return channel.send(channel.receive() + 1)


group = execgw.Group()
gw = group.makegateway(sys.argv[1])
ch = gw.remote_exec(fun)
ch.send(1)
x = ch.receive()
print(x)
group.terminate(timeout=5)
