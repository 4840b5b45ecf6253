"""The HTTP server of a node: uvicorn on the event loop of the process, with bounds on what a peer may do.

A connection whose first bytes are the preface of HTTP/2 goes to `h2_connection`; all others are HTTP/1.1. Of
these, this module bounds what uvicorn does not:

    a connection that sends no or half a request head    closed after `HEAD_DEADLINE_S`
    a request head without end                           431 and closed after `HEAD_BYTES_MAX`
    a body that comes after its request was answered     closed after `UNREAD_BODY_S`
    requests behind one that is being answered           one is kept, with another one the connection is reset
    connections                                          `CONNECTIONS_MAX`, further ones are reset
    a peer that is gone or reads nothing                 `listener` has the kernel give up
    empty lines while a response is under way            counted, as signs of life (`node/signs_of_life.py`)
"""

import asyncio
import contextlib
from asyncio import TimerHandle, Transport
from collections.abc import Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from litefs.http.h2_connection import PREFACE, Http2Connection
from litefs.http.listener import set_dead_after
from litefs.http.responses import CONNECTION_EXTENSION

HEAD_DEADLINE_S = 10.0
"""LiteFS's proxy gives a request head as long."""

HEAD_BYTES_MAX = 64 << 10
"""Far above any head of ours; Go's server allows 1 MiB."""

UNREAD_BODY_S = 30.0
"""Who was refused in the middle of an upload may read why when all of it is sent."""

CONNECTIONS_MAX = 256
"""Replicas, probes and tools of one cluster need tens; each connection costs about 20 KB."""

KEEP_ALIVE_S = 5

GRACE_S = 2
"""How long responses may take to end once the server stops."""

_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a deadline and a size for the request head, and a count of connections."""

    _head_timer: TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _first_bytes: bytes | None = b""
    """What came so far while it may be the preface of HTTP/2; None once it cannot."""

    _sign_n = 0
    _ahead: RequestResponseCycle | None = None
    """What was being answered when the latest request came: uvicorn tells only the latest that the peer is gone."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Starts the deadline of the first head, or resets a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        self._await_head(HEAD_DEADLINE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the deadline."""
        self._stop_head_timer()
        if self._ahead is not None:
            self._ahead.disconnected = True
            self._ahead.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, unless the head has become too large."""
        if self.transport.is_closing():
            return
        if self._is_answering and not data.strip(b"\r\n"):
            self._sign_n += 1
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head(HEAD_DEADLINE_S)
        if self._first_bytes is not None:
            data = self._first_bytes + data
            if PREFACE.startswith(data[: len(PREFACE)]):
                self._first_bytes = data
                if len(data) >= len(PREFACE):
                    self._hand_over(data)
                return
            self._first_bytes = None
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Offers the response a way to reset the connection."""
        super().on_message_begin()
        self.scope["extensions"] = {
            CONNECTION_EXTENSION: {
                "abort": self.transport.abort,
                "set_dead_after": partial(set_dead_after, self.transport),
                "sign_n": lambda: self._sign_n,
            }
        }

    def on_headers_complete(self) -> None:
        """Stops the deadline: the head is there."""
        self._in_head = False
        self._head_bytes = 0
        self._stop_head_timer()
        if self.pipeline:
            self.transport.abort()
            return
        self._ahead = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self.flow.resume_reading()  # else nobody would notice that the peer goes away

    def on_message_complete(self) -> None:
        """Expects the next head."""
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Starts a deadline for what has not come yet of the request."""
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            self._await_head(UNREAD_BODY_S)

    @property
    def _is_answering(self) -> bool:
        """A whole request came, and its response is under way."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation leaves the None out
        return self._in_head and cycle is not None and not cycle.response_complete

    def _hand_over(self, data: bytes) -> None:
        """Lets HTTP/2 have the connection."""
        self._stop_head_timer()
        self.connections.discard(self)
        successor = Http2Connection(
            self.app, self.server_state, head_deadline_s=HEAD_DEADLINE_S, keep_alive_s=KEEP_ALIVE_S
        )
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(data)

    def _await_head(self, seconds: float) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(seconds, self._head_overdue)

    def _head_overdue(self) -> None:
        self._head_timer = None
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation leaves the None out
        if cycle is None or cycle.response_complete:  # else these were stray bytes behind a request
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner and sleeps between requests."""

    def __init__(self, app: ASGIApp) -> None:
        """Args: app: the ASGI application to serve."""
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Has `serve` finish the responses that are under way, and return."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Renews the Date header each second, in place of uvicorn's ten turns a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stopped.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signal handlers as they are."""
        yield
