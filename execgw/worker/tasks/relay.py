"""via=: starts a process beside this worker and carries its bytes over the channel, both ways.

channel -> stdin of the process          bytes; (signal number,) sends a signal to its group
stdout  -> channel                       bytes; (exit code, last lines of stderr) when it has ended
"""

import os
import re
import signal
import subprocess
import sys
import threading

READ_SIZE = 64 * 1024
TAIL = 4096
LAST_SECONDS = 2.0  # for a child to end by itself once its link is closed


JYTHON = sys.platform.startswith("java")

# Our own stderr may end on a terminal, which obeys control characters; of those of a child only colours may pass.
CONTROL = re.compile(b"\x1b\\[[0-9;]{0,32}m|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")


def _shown(found):
    text = found.group(0)
    if text[-1:] == b"m":
        return text
    return "".join(["\\x%02x" % byte for byte in bytearray(text[-1:])]).encode("ascii")


def _write_all(stream, data):
    if JYTHON:  # its os.write takes no numbers, and what a stream of Java has taken is not yet written
        stream.write(data)
        stream.flush()
        return
    fd = stream.fileno()
    while data:
        data = data[os.write(fd, data) :]


def _signal(process, number):
    try:
        os.kill(-process.pid, number)  # its group; Jython has no killpg
    except OSError:
        try:
            os.kill(process.pid, number)
        except OSError:
            pass


def _start(argv, env, cwd, nice):
    options = {}
    if sys.version_info >= (3, 2):
        options["start_new_session"] = True
    elif not JYTHON:
        options["preexec_fn"] = os.setsid
    argv = [sys.executable if argv[0] is None else argv[0]] + list(argv[1:])
    if JYTHON:
        argv = _in_own_session(argv)
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


def _in_own_session(argv):
    """Jython runs nothing between fork and exec; setsid does, but it would be setsid that says what is missing."""
    from distutils.spawn import find_executable

    if find_executable(argv[0]) is None:
        raise OSError(2, "No such file or directory")
    setsid = find_executable("setsid")
    return [setsid] + argv if setsid else argv


class Relay(object):
    def __init__(self, channel, process):
        self.channel = channel
        self.process = process
        self.tail = b""
        self.ended = threading.Event()
        self.start_thread(self.reap)

    def start_thread(self, function):
        thread = threading.Thread(target=function)
        thread.daemon = True
        thread.start()
        return thread

    def reap(self):
        """Take the whole group along when its leader ends: what is left of it may hold stdout open."""
        self.process.wait()
        self.kill()
        self.ended.set()

    def signal(self, number):
        _signal(self.process, number)

    def kill(self):
        self.signal(getattr(signal, "SIGKILL", 9))

    def told(self, item):
        """What the near side says, beside bytes for the process."""
        self.signal(item[0])

    def moved(self):
        """Bytes went, one way or the other."""

    def obituary(self, code):
        """What the near side is told at the end."""
        return code, self.tail.decode("utf-8", "replace")

    def end_with_channel(self):
        """A child that does not read holds up who writes to it, and that one does not hear of the channel's end."""
        try:
            self.channel.waitclose()
        except self.channel.RemoteError:  # the near side waits no longer
            self.kill()
        except Exception:  # why does not matter
            pass
        self.wait(LAST_SECONDS)

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
                _write_all(sys.__stderr__, CONTROL.sub(_shown, data))
            except (AttributeError, EnvironmentError):  # there is none, or nobody reads it
                pass

    def carry_out(self):
        """stdout to the channel; then say how it ended."""
        fd = self.process.stdout.fileno()
        stderr = self.start_thread(self.show_stderr)
        try:
            while True:
                try:
                    data = os.read(fd, READ_SIZE)
                except OSError:
                    break
                if not data:
                    break
                self.moved()
                self.channel.send(data)
            code = self.wait(LAST_SECONDS)
            stderr.join(0.2)
            self.channel.send(self.obituary(code))
        except EnvironmentError:  # the near side has gone, or closed the channel
            pass
        self.process.stdout.close()
        if not stderr.is_alive():
            self.process.stderr.close()

    def wait(self, seconds):
        """The exit code; after *seconds* the whole group is killed."""
        if not self.ended.wait(seconds):
            self.kill()
            self.ended.wait()
        return self.process.returncode


def main(channel, argv, env, cwd, nice):
    """Run until the process has ended or the channel is closed."""
    try:
        process = _start(argv, env, cwd, nice)
    except (OSError, ValueError) as e:
        channel.send((None, "cannot start %r: %s" % (argv[0] or sys.executable, e)))
        return
    carry(Relay(channel, process))


def carry(relay):
    """Carry bytes both ways until one of the two ends."""
    channel, process = relay.channel, relay.process
    out = relay.start_thread(relay.carry_out)
    relay.start_thread(relay.end_with_channel)
    try:
        while True:
            item = channel.receive()
            if isinstance(item, tuple):
                relay.told(item)
            else:
                relay.moved()
                try:
                    _write_all(process.stdin, item)
                except EnvironmentError:  # it has ended; carry_out tells
                    pass
    except EOFError:
        pass
    except channel.RemoteError:
        relay.kill()
    finally:
        try:
            process.stdin.close()
        except EnvironmentError:  # Jython: what was written last went nowhere
            pass
        relay.wait(LAST_SECONDS)
        out.join(1)
