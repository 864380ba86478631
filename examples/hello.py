"""Run a line of code in another process, and get a value back."""

import os

import execgw

with execgw.makegateway("popen") as gateway:
    channel = gateway.remote_exec("import os; channel.send(os.getpid())")
    print("the same process" if channel.receive() == os.getpid() else "another process")
