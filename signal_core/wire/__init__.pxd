"""Wire formats: bytes in, a result out. No state, no I/O, no allocation.

UTF-8, WebSocket frames, HTTP, the head line of signal.v1, the NATS protocol, the record layer of TLS 1.3. Cimports
base/ only."""
