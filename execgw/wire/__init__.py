"""The wire, shared by both sides: bytes in, events out.  No I/O, no threads, no clock; Python 2.7 syntax."""
