"""A gateway on a channel: a worker starts another one beside itself, and a channel carries its bytes."""

import os

import execgw

with execgw.Group() as group:
    gw = group.makegateway("popen//id=middle")
    ch = gw.remote_exec("""
        import execgw.service
        execgw.service.gatewaymaker(channel)
    """)
    ch.send("popen//id=below")
    subchannel = ch.receive()
    below = execgw.ChannelGateway(subchannel)
    deepest = group.makegateway("popen//id=deepest//via=below")

    print("below middle:", below.call(os.getppid) == gw.call(os.getpid))
    print("below below:", deepest.call(os.getppid) == below.call(os.getpid))
    for node in group.tree():
        print(node.id, node.kind, [inner.id for inner in node.below])
