"""A gateway on a channel: a worker starts another one beside itself, and a channel carries its bytes here."""

import execgw

with execgw.Group() as group:
    gw = group.makegateway("popen//id=middle")
    ch = gw.remote_exec("""
        import execgw.service
        execgw.service.gatewaymaker(channel)
    """)
    ch.send("popen//id=below")
    subchannel = ch.receive()
    sub = execgw.ChannelGateway(subchannel)
    deepest = group.makegateway("popen//via=below//id=deepest")

    for gateway in group:
        gateway.remote_exec("import os; channel.send(os.getppid())").receive()
        print(gateway.id, "runs", gateway.call(len, "abc") == 3)
    print([node.id for node in group.tree()])
