"""An end to waiting for a peer that sends a byte now and then: the time-out of a socket is for each wait by itself."""

import socket
import threading
from contextlib import suppress
from typing import Protocol, Self

AGAIN_S = 0.1
"""A connection that is being made when the time is over is shut down when it is there."""


class Connection(Protocol):
    """What can be shut down: a socket."""

    def shutdown(self, how: int, /) -> None:
        """Ends every wait for the peer. Raises OSError if there is no connection."""


class Deadline:
    """Shuts a connection down if a `with` block takes too long, which then ends with TimeoutError.

    Assumes: the block waits for nothing but the connection.
    """

    def __init__(self, connection: Connection, seconds: float, what: str) -> None:
        """Args: what: for the error, did not come in time."""
        self._connection = connection
        self._seconds = seconds
        self._error = TimeoutError(f"no {what} within {seconds:g} s")
        self._is_over = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)

    def __enter__(self) -> Self:
        """Starts the clock."""
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Stops it.

        Raises:
            TimeoutError: the time is over, whatever became of the block.
        """
        self._ended.set()
        if self._is_over:
            raise self._error from error

    def _watch(self) -> None:
        seconds = self._seconds
        while not self._ended.wait(seconds):
            self._is_over = True
            seconds = AGAIN_S
            with suppress(OSError):  # it is closed already, or not there yet
                self._connection.shutdown(socket.SHUT_RDWR)
