"""What goes wrong there, and what arrives here."""

import execgw


def divide(a: int, b: int) -> float:
    """Raises in the worker."""
    return a / b


with execgw.Group() as group:
    gateway = group.makegateway("popen")
    try:
        gateway.call(divide, 1, 0)
    except execgw.RemoteError as e:
        print("it raised:", e.type, "-", e.message)

    channel = gateway.remote_exec("import os; os.write(2, b'out of luck'); os._exit(3)")
    try:
        channel.receive()
    except execgw.ConnectionLost as e:
        print("it died: exit code", e.exit_code, "- its last words:", e.stderr)

    try:
        group.makegateway("popen//python=no-such-python")
    except execgw.StartError as e:
        print("it did not start:", type(e).__name__)
