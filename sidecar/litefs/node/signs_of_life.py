"""What a follower sends its primary while the stream comes in: an empty line each second, which HTTP ignores.

The kernel acknowledges what comes in whether or not this process lives to read it. A process that hangs, or that was
stopped, sends no lines; and one that writes a large snapshot to its disk does.
"""

import socket
import threading
from typing import Self

SIGN_EVERY_S = 1.0

SIGN = b"\r\n"
"""RFC 9112, section 2.2: a server ignores empty lines before a request."""


class SignsOfLife:
    """Sent on a connection within a `with` block, by a thread. A connection that is lost ends them."""

    def __init__(self, connection: socket.socket) -> None:
        """Args: connection: on which nothing else is sent meanwhile."""
        self._connection = connection
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send, name="signs-of-life", daemon=True)

    def __enter__(self) -> Self:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends; the connection is not used any more afterwards."""
        self._ending.set()
        self._thread.join()

    def _send(self) -> None:
        while True:
            try:
                self._connection.send(SIGN, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                pass  # what was sent before is still there to be read
            except OSError:
                return  # whoever reads from it notices, too
            if self._ending.wait(SIGN_EVERY_S):
                return
