"""via=: starts a process beside this worker and carries its bytes over the channel, both ways.

channel -> stdin of the process          bytes; (signal number,) sends a signal to its group
stdout  -> channel                       bytes; (exit code, last lines of stderr) when it has ended
"""

import os
import signal
import subprocess
import sys
import threading

READ_SIZE = 64 * 1024
TAIL = 4096
LAST_SECONDS = 2.0  # for a child to end by itself once its link is closed


def _write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def _signal(process, number):
    try:
        os.killpg(process.pid, number)
    except (AttributeError, OSError):
        try:
            os.kill(process.pid, number)
        except OSError:
            pass


def _start(argv, env, cwd, nice):
    options = {}
    if sys.version_info >= (3, 2):
        options["start_new_session"] = True
    elif hasattr(os, "setsid") and not sys.platform.startswith("java"):
        options["preexec_fn"] = os.setsid
    if argv[0] is None:
        argv = [sys.executable] + list(argv[1:])
    if nice is not None:
        argv = ["nice", "-n", str(nice)] + list(argv)
    if cwd is not None and not os.path.isdir(cwd):
        os.makedirs(cwd)
    if env:
        env = dict(os.environ, **dict([(str(name), str(env[name])) for name in env]))
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env or None, close_fds=True, bufsize=0, **options
    )


class Relay(object):
    def __init__(self, channel, process):
        self.channel = channel
        self.process = process
        self.tail = b""

    def show_stderr(self):
        """Pass stderr on to our own, and keep its last lines."""
        fd = self.process.stderr.fileno()
        while True:
            try:
                data = os.read(fd, READ_SIZE)
            except OSError:
                return
            if not data:
                return
            self.tail = (self.tail + data)[-TAIL:]
            try:
                _write_all(2, data)
            except OSError:
                pass

    def carry_out(self):
        """stdout to the channel; then say how it ended."""
        fd = self.process.stdout.fileno()
        stderr = threading.Thread(target=self.show_stderr)
        stderr.daemon = True
        stderr.start()
        try:
            while True:
                try:
                    data = os.read(fd, READ_SIZE)
                except OSError:
                    break
                if not data:
                    break
                self.channel.send(data)
            code = self.wait(LAST_SECONDS)
            stderr.join(0.2)
            self.channel.send((code, self.tail.decode("utf-8", "replace")))
        except EnvironmentError:  # the near side has gone, or closed the channel
            pass

    def wait(self, seconds):
        """The exit code; after *seconds* the whole group is killed."""
        timer = threading.Timer(seconds, _signal, (self.process, getattr(signal, "SIGKILL", 9)))
        timer.daemon = True
        timer.start()
        code = self.process.wait()
        timer.cancel()
        _signal(self.process, getattr(signal, "SIGKILL", 9))
        return code


def main(channel, argv, env, cwd, nice):
    """Run until the process has ended or the channel is closed."""
    try:
        process = _start(argv, env, cwd, nice)
    except (OSError, ValueError) as e:
        channel.send((None, "cannot start %r: %s" % (argv[0] or sys.executable, e)))
        return
    relay = Relay(channel, process)
    out = threading.Thread(target=relay.carry_out)
    out.daemon = True
    out.start()
    fd = process.stdin.fileno()
    try:
        while True:
            item = channel.receive()
            if isinstance(item, tuple):
                _signal(process, item[0])
            else:
                try:
                    _write_all(fd, item)
                except OSError:  # it has ended; carry_out tells
                    pass
    except EOFError:
        pass
    finally:
        process.stdin.close()
        relay.wait(LAST_SECONDS)
        out.join(1)
