"""The node's side of the link: questions from any thread, answers in their order, events as they come.

Strategy: one thread reads the socket. The filesystem process answers in the order of the questions, so a
queue of those that wait is all there is to match them.
"""

import logging
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from litefs.errors import FormatError, LinkClosedError
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode

RECEIVE_BYTES = 1 << 20

Event = m.Committed | m.ShmCreated
_log = logging.getLogger("litefs.node")


class LinkClient:
    """A connection to the filesystem process."""

    def __init__(self, link: socket.socket, on_event: Callable[[Event], None], on_closed: Callable[[], None]) -> None:
        """Args: on_event, on_closed: called on the reading thread."""
        self._socket = link
        self._on_event = on_event
        self._on_closed = on_closed
        self._decoder: MessageDecoder[m.FilesystemMessage] = MessageDecoder(m.FilesystemMessage)
        self._sending = threading.Lock()
        self._waiting: deque[queue.SimpleQueue[m.Answer | None]] = deque()
        self._is_closed = False

    def start(self) -> None:
        """Begins to read."""
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def call(self, message: msgspec.Struct) -> m.Answer:
        """Asks and waits for the answer.

        Raises:
            LinkClosedError: the other process is gone; it may or may not have done it.
        """
        answer: queue.SimpleQueue[m.Answer | None] = queue.SimpleQueue()
        data = encode(message)
        with self._sending:
            if self._is_closed:
                raise LinkClosedError("the filesystem process is gone")
            self._waiting.append(answer)
            self._send(data)
        result = answer.get()
        if result is None:
            raise LinkClosedError("the filesystem process is gone")
        return result

    def send(self, message: msgspec.Struct) -> None:
        """Says something that has no answer.

        Raises:
            LinkClosedError: the other process is gone.
        """
        data = encode(message)
        with self._sending:
            if self._is_closed:
                raise LinkClosedError("the filesystem process is gone")
            self._send(data)

    def close(self) -> None:
        """Ends the connection; whoever waits gets `LinkClosedError`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkClosedError(f"the filesystem process is gone: {error}") from error

    def _read(self) -> None:
        try:
            while data := self._socket.recv(RECEIVE_BYTES):
                self._take(self._decoder.feed(data))
        except OSError:
            pass
        except FormatError:
            _log.exception("link")
        with self._sending:
            self._is_closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for answer in waiting:
            answer.put(None)
        self._on_closed()

    def _take(self, messages: list[m.FilesystemMessage]) -> None:
        for message in messages:
            if isinstance(message, m.Committed | m.ShmCreated):
                self._on_event(message)
            else:
                self._waiting.popleft().put(message)
