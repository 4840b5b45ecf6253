"""The node's side of the link: questions from any thread, answers in their order, events as they come.

Strategy: one thread reads the socket. The filesystem process answers in the order of the questions, so a
queue of those that wait is all there is to match them.
"""

import logging
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from litefs.errors import FormatError, LinkClosedError, LinkSilentError
from litefs.link import messages as m
from litefs.link.channel import MessageDecoder, encode

RECEIVE_BYTES = 1 << 16

GIVE_UP_CHECK_S = 0.2

Event = m.Committed | m.ShmCreated | m.NotReached
_log = logging.getLogger("litefs.node")


class LinkClient:
    """A connection to the filesystem process."""

    def __init__(
        self, link: socket.socket, on_event: Callable[[Event], m.Seen | None], on_closed: Callable[[], None]
    ) -> None:
        """Args: on_event, on_closed: called on the reading thread; what an event is answered with is sent together."""
        self._socket = link
        self._on_event = on_event
        self._on_closed = on_closed
        self._decoder: MessageDecoder[m.FilesystemMessage] = MessageDecoder(m.FilesystemMessage)
        self._sending = threading.Lock()
        self._waiting: deque[queue.SimpleQueue[m.Answer | None]] = deque()
        self._is_closed = False
        self._poller = select.poll()
        self._poller.register(link, select.POLLOUT)
        self.received_n = 0
        """How often something came from the other process."""
        self.sync_wait_s = 0.0
        """How long it has been waiting for the disk in a sync of a log, as it said last."""

    def start(self) -> None:
        """Begins to read."""
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def call(self, message: msgspec.Struct, gives_up: Callable[[], bool] | None = None) -> m.Answer:
        """Asks and waits for the answer.

        Args:
            message: the question.
            gives_up: asked now and then whether to wait no longer; by default it is waited for without a bound.

        Raises:
            LinkClosedError: the other process is gone; it may or may not have done it.
            LinkSilentError: `gives_up` said so.
        """
        answer: queue.SimpleQueue[m.Answer | None] = queue.SimpleQueue()
        data = encode(message)
        with self._turn(gives_up):
            self._waiting.append(answer)
            self._send(data)
        result = answer.get() if gives_up is None else _get(answer, gives_up)
        if result is None:
            raise LinkClosedError("the filesystem process is gone")
        return result

    def send(self, message: msgspec.Struct) -> None:
        """Says something that has no answer.

        Raises:
            LinkClosedError: the other process is gone.
        """
        data = encode(message)
        with self._turn(None):
            self._send(data)

    def offer(self, message: msgspec.Struct) -> bool:
        """Says something that nobody waits for an answer to, unless there is no room for it now.

        Returns:
            Whether it was said.

        Raises:
            LinkClosedError: the other process is gone.
        """
        try:
            with self._turn(lambda: True, check_s=0.0):
                self._send(encode(message))
        except LinkSilentError:
            return False
        return True

    def close(self) -> None:
        """Ends the connection; whoever waits gets `LinkClosedError`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster

    @contextmanager
    def _turn(self, gives_up: Callable[[], bool] | None, check_s: float = GIVE_UP_CHECK_S) -> Iterator[None]:
        """Keeps others from sending within the block, and waits for room before if it can be given up."""
        while not self._sending.acquire(timeout=-1 if gives_up is None else check_s):
            _check(gives_up)
        try:
            while gives_up is not None and not self._poller.poll(check_s * 1000):
                _check(gives_up)
            if self._is_closed:
                raise LinkClosedError("the filesystem process is gone")
            yield
        finally:
            self._sending.release()

    def _send(self, data: bytes | bytearray) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkClosedError(f"the filesystem process is gone: {error}") from error

    def _read(self) -> None:
        try:
            while data := self._socket.recv(RECEIVE_BYTES):
                self.received_n += 1
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
        answers = bytearray()
        for message in messages:
            if isinstance(message, m.Committed | m.ShmCreated | m.NotReached):
                if (answer := self._on_event(message)) is not None:
                    answers += encode(answer)
            elif isinstance(message, m.Pong):
                self.sync_wait_s = message.sync_wait_s
            else:
                self._waiting.popleft().put(message)
        if answers:
            with suppress(LinkClosedError), self._turn(None):
                self._send(answers)


def _get(answer: queue.SimpleQueue[m.Answer | None], gives_up: Callable[[], bool]) -> m.Answer | None:
    while True:
        with suppress(queue.Empty):
            return answer.get(timeout=GIVE_UP_CHECK_S)
        _check(gives_up)


def _check(gives_up: Callable[[], bool] | None) -> None:
    if gives_up is not None and gives_up():
        raise LinkSilentError("the filesystem process does not answer")
