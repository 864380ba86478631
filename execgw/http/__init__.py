"""The HTTP exec-server, and the gateways that reach it (`http=`).  See docs/http-protocol.md."""
