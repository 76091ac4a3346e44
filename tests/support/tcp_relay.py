"""A TCP relay in front of a server: it counts the requests that pass, and can break connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class Relay:
    """Listens on ``port`` of this machine. The next ``cut`` requests are read and then dropped, with the
    connection, before the server sees them."""

    def __init__(self, target: int) -> None:
        self._target, self.requests, self.cut = target, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source, sink = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(1 << 16)
                    self.requests += data.count(b"POST /predictions/")
                    if not data or (source is client and self._cuts()):
                        return
                    sink.sendall(data)

    def _cuts(self) -> bool:
        self.cut -= 1
        return self.cut >= 0

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
