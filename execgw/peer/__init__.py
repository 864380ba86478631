"""One live session, either side: threads that send, wait and read.  Shared by both sides; Python 2.7 syntax."""
