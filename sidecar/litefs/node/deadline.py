"""An end to waiting for a peer that sends a byte now and then: the time-out of a socket is for each wait by itself."""

import socket
import threading
from types import TracebackType
from typing import Self


class Deadline:
    """Shuts a connection down if a `with` block takes too long, which then ends with TimeoutError.

    Assumes: the block waits for nothing but the connection.
    """

    def __init__(self, connection: socket.socket, seconds: float, what: str) -> None:
        """Args: what: for the error, did not come in time."""
        self._connection = connection
        self._error = TimeoutError(f"no {what} within {seconds:g} s")
        self._is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Starts the clock."""
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it.

        Raises:
            TimeoutError: the time is over, whatever became of the block.
        """
        self._timer.cancel()
        if self._is_over:
            raise self._error from error

    def _end(self) -> None:
        self._is_over = True
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already
