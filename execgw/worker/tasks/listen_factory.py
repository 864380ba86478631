"""execgw service HOST:PORT: the workers of a listener come from a fork server, on the very sockets of their clients."""

import types


def _execute(code, namespace):
    # Alone in its function: Python 2 refuses exec beside a closure.
    exec(code, namespace)


def main(client, source, server):
    """The kind of connection that a listener is to make; *source* is the text of factory_relay.py, which starts one."""
    relay = types.ModuleType("relay")
    _execute(compile(source, "<execgw factory_relay.py>", "exec", 0, True), relay.__dict__)
    program, boot, config = server
    forks = relay.ForkServer(program, boot, config)
    forks.ready.wait(relay.START_SECONDS)
    if forks.problem:
        raise ValueError(forks.problem)

    class WarmConnection(client.Connection):
        """One client, and the worker that is forked for it; it gets a new process if it does not ask for that."""

        worker = None

        def _start(self, request, fd):
            if not request.get("factory"):
                return client.Connection._start(self, request, fd)
            if request["factory"] != config["version"]:
                raise ValueError("the service runs execgw %s, the client %s" % (config["version"], request["factory"]))
            self.worker, why = forks.start(None, None, fd)
            if self.worker is None:
                raise ValueError("the factory refuses: %s" % why)
            return self.worker

        def signal(self, number):
            if self.worker is None:
                client.Connection.signal(self, number)
            else:
                self.worker.signal(number)

        def _wait(self):
            if self.worker is None:
                return client.Connection._wait(self)
            if not self.over:
                self.worker.wait()
                self.over = True
                self.worker.close()
                self.listener.guard("-", self.worker.pid)
            return self.worker.returncode if self.worker.returncode is not None else 1

    return WarmConnection
