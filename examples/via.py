"""A worker beside another worker: its bytes go through a channel of that one."""

import execgw

with execgw.Group() as group:
    master = group.makegateway("popen//id=master")
    child = group.makegateway("popen//via=master")
    started_by = child.remote_exec("import os; channel.send(os.getppid())").receive()
    pid = master.remote_exec("import os; channel.send(os.getpid())").receive()
    print("the master started it" if started_by == pid else "somebody else started it")
