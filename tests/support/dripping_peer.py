"""A peer that answers everybody a byte at a time and never gets to the end, so that no single wait is long."""

import contextlib
import socket
import threading
from collections.abc import Iterator

PAUSE_S = 0.01

HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nA: "


@contextlib.contextmanager
def dripping_peer(first: bytes, drop: bytes = b"b") -> Iterator[int]:
    """Listens on loopback within the block, and hands out the port. Args: first: sent at once; drop: then for ever."""
    ending = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # it is hung up on, as it should be
            connection.sendall(first)
            while not ending.wait(PAUSE_S):
                connection.sendall(drop)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        ending.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
