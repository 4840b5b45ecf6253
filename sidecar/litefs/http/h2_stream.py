"""One stream of an HTTP/2 connection: the way of a response to the peer, as fast as that takes it.

Rules of this file: as in `h2_connection`; no await between a change of `_h2` and the `_flush` behind it.
"""

import asyncio
from asyncio import Transport
from collections.abc import Callable

from h2.connection import H2Connection
from h2.errors import ErrorCodes

from litefs.http.listener import set_dead_after

Headers = list[tuple[bytes, bytes]]

WRITE_BYTES = 64 << 10
"""Framed in one step without letting others run: about 0.1 ms."""


class Http2Stream:
    """What a request asks of its connection. After the peer has left, every call does nothing.

    Attributes:
        window: set when the peer may have become ready to take more.
        sign_n: returns how many pings the peer has answered, and sends it one.
    """

    def __init__(
        self,
        stream_id: int,
        h2: H2Connection,
        flush: Callable[[], None],
        transport: Transport,
        may_write: asyncio.Event,
        sign_n: Callable[[], int],
    ) -> None:
        """Args: h2, flush, transport, may_write: the connection's; `flush` sends what `h2` has to say."""
        self.sign_n = sign_n
        self.window = asyncio.Event()
        self._id = stream_id
        self._h2 = h2
        self._flush = flush
        self._transport = transport
        self._may_write = may_write
        self._is_gone = False
        self._dead_after_s: float | None = None

    def leave(self) -> None:
        """Notes that the peer is gone: nothing waits for it any more."""
        self._is_gone = True
        self.window.set()

    def send_head(self, headers: Headers) -> None:
        """Sends the head of the response."""
        if self._is_open():
            self._h2.send_headers(self._id, headers)
            self._flush()

    async def send_body(self, data: bytes, *, end: bool) -> None:
        """Sends the next bytes of the response, waiting while the peer is slow."""
        view = memoryview(data)
        while self._is_open() and (view or end):
            await self._may_write.wait()
            if not self._is_open():
                return
            size = min(self._h2.local_flow_control_window(self._id), len(view), WRITE_BYTES)
            if view and size <= 0:
                await self._await_window()
                continue
            view = self._frame(view, size, end=end)
            if not view:
                return

    async def _await_window(self) -> None:
        self.window.clear()
        try:
            async with asyncio.timeout(self._dead_after_s):
                await self.window.wait()
        except TimeoutError:
            self._transport.abort()

    def _frame(self, view: memoryview, size: int, *, end: bool) -> memoryview:
        """Sends `size` bytes and returns the rest."""
        step = self._h2.max_outbound_frame_size
        for start in range(0, size, step):
            stop = min(start + step, size)
            self._h2.send_data(self._id, view[start:stop], end_stream=end and stop == len(view))
        if end and not view:
            self._h2.end_stream(self._id)
        self._flush()
        return view[size:]

    def credit(self, size: int) -> None:
        """Lets the peer send `size` more bytes."""
        if not self._transport.is_closing():  # also for a stream that is gone: the connection has a window too
            self._h2.acknowledge_received_data(size, self._id)
            self._flush()

    def reset(self, code: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        """Ends the stream as it is."""
        if self._is_open():
            self.leave()
            self._h2.reset_stream(self._id, code)
            self._flush()

    def set_dead_after(self, seconds: float) -> None:
        """Has the connection given up when nothing is acknowledged, or taken, for so long."""
        self._dead_after_s = seconds
        set_dead_after(self._transport, seconds)

    def _is_open(self) -> bool:
        return not (self._is_gone or self._transport.is_closing())
