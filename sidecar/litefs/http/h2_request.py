"""One request of an HTTP/2 connection as an ASGI application sees it.

Strategy: the connection puts in what arrives and takes out what is to be sent; this class keeps the two sides
apart. Body bytes are credited back to the peer when the application takes them, so that a slow application
holds one flow-control window and not more.
"""

import asyncio
import logging
from collections import deque

from h2.errors import ErrorCodes
from starlette.types import ASGIApp, Message, Scope

from litefs.http.h2_stream import Http2Stream
from litefs.http.responses import CONNECTION_EXTENSION

_OF_HTTP_1 = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection"})
"""RFC 9113, section 8.2.2, forbids them."""

logger = logging.getLogger(__name__)


class Http2Request:
    """One request and its response."""

    def __init__(self, stream: Http2Stream, scope: Scope) -> None:
        """Args: scope: without extensions, which are this class's."""
        self._scope: Scope = dict(scope)
        self._scope["extensions"] = {
            CONNECTION_EXTENSION: {
                "abort": self._abort,
                "set_dead_after": stream.set_dead_after,
                "sign_n": stream.sign_n,
            }
        }
        self._stream = stream
        self._sends_body = scope["method"] != "HEAD"
        self._body: deque[tuple[bytes, int]] = deque()
        self._arrived = asyncio.Event()
        self._is_whole = self._is_read = self._is_answered = self._is_gone = False

    # ---- for the connection ----

    def take_body(self, data: bytes, credit: int) -> None:
        """Takes bytes of the request's body; `credit` is what they cost of the peer's window."""
        self._body.append((data, credit))
        self._arrived.set()

    def end_body(self) -> None:
        """Notes that the request is whole."""
        self._is_whole = True
        self._arrived.set()

    def leave(self) -> None:
        """Notes that the peer has reset the stream, or is gone."""
        self._is_gone = True
        self._arrived.set()

    async def run(self, app: ASGIApp) -> None:
        """Runs the application; a response that it leaves unfinished ends in a reset."""
        try:
            await app(self._scope, self._receive, self._send)
        except Exception:
            logger.exception("%s %s", self._scope["method"], self._scope["path"])
        finally:
            for _, credit in self._body:  # what nobody read counts against the connection's window
                self._stream.credit(credit)
            self._body.clear()
            if not self._is_answered:
                self._stream.reset()
            elif not self._is_whole:
                self._stream.reset(ErrorCodes.NO_ERROR)  # RFC 9113, section 8.1: answered without the rest

    # ---- for the application ----

    def _abort(self) -> None:
        self._stream.reset()
        self.leave()

    async def _receive(self) -> Message:
        while True:
            if self._body:
                data, credit = self._body.popleft()
                self._stream.credit(credit)
                self._is_read = self._is_whole and not self._body
                return {"type": "http.request", "body": data, "more_body": not self._is_read}
            if self._is_whole and not self._is_read:
                self._is_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._is_gone or self._is_answered:
                return {"type": "http.disconnect"}
            self._arrived.clear()
            await self._arrived.wait()

    async def _send(self, message: Message) -> None:
        if self._is_gone:
            await asyncio.sleep(0)  # whoever sends without end must let others run
        elif message["type"] == "http.response.start":
            head = [(b":status", str(message["status"]).encode())]
            head += [(n.lower(), value) for n, value in message["headers"] if n.lower() not in _OF_HTTP_1]
            self._stream.send_head(head)
        elif message["type"] == "http.response.body":
            end = not message.get("more_body", False)
            await self._stream.send_body(message.get("body", b"") if self._sends_body else b"", end=end)
            if end:
                self._is_answered = True
                self._arrived.set()
