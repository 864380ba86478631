"""A warning that both the workers and the controller can import, as pytest-xdist wants it."""


class NotForTheWire(UserWarning):
    """Its args cannot be sent."""
