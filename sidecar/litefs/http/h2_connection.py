"""An HTTP/2 connection with prior knowledge (h2c), serving the same application as HTTP/1.1 does.

Go LiteFS follows nobody who does not speak it. The `h2` library keeps the protocol's state and codes the
frames; here are the socket, the flow control and the bounds on what a peer may do.

    half a head, or no request at all    closed after `HEAD_DEADLINE_S`, or `KEEP_ALIVE_S` behind a response
    streams at a time                    `STREAMS_MAX`, told to the peer
    bytes of bodies that nobody read     `WINDOW_BYTES` a connection
    answers that are not taken           nothing more is read until they are
    bytes sent and not taken             the transport's 64 KiB and one block of the application a stream
    streams opened only to be reset      `RESETS_MAX`, then the connection is closed
    a response that is not taken         as long as `set_dead_after` says, which cannot ask the kernel alone here: it
                                         acknowledges up to a window of a peer that stands still
    a head without end                   `HEAD_BYTES_MAX`, 64 frames (h2's own)

Rules of this file: everything runs on the event loop's thread. Between a change of `_h2` and the write of what
it wants sent there is no await, or the frames of two streams would get into disorder.

Source: RFC 9113; docs/decisions/041-two-protocols-on-one-port.md.
"""

import asyncio
from asyncio import TimerHandle, Transport
from typing import Any, cast
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from litefs.http.h2_request import Http2Request
from litefs.http.h2_stream import Headers, Http2Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of such a connection; no request of HTTP/1.1 begins so."""

HEAD_BYTES_MAX = 64 << 10
STREAMS_MAX = 32
WINDOW_BYTES = 1 << 20
RESETS_MAX = 100
"""A follower resets one stream when it leaves. Go's server allows some hundred since CVE-2023-44487."""


class Http2Connection(asyncio.Protocol):
    """One connection, from its preface on."""

    def __init__(self, app: ASGIApp, state: ServerState, *, head_deadline_s: float, keep_alive_s: float) -> None:
        """Args: state: of the server, which counts connections and tasks in it."""
        self._app = app
        self._state = state
        self._head_deadline_s = head_deadline_s
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        config = H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False)
        self._h2 = H2Connection(config)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_BYTES_MAX,
            },
        )
        self._requests: dict[int, tuple[Http2Request, Http2Stream]] = {}
        self._transport = cast("Transport", None)
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._idle_timer: TimerHandle | None = None
        self._reset_n = 0
        self._sign_n = 1  # the request: every peer has to answer pings, from the first one on
        self._is_ending = False

    # ---- asyncio's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduces the server."""
        self._transport = cast("Transport", transport)
        self._state.connections.add(cast("Any", self))
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES - self._h2.inbound_flow_control_window)
        self._flush()
        self._await_request(self._head_deadline_s)

    def data_received(self, data: bytes) -> None:
        """Takes what the peer sent; whoever breaks the protocol is told so and dropped."""
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._take(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all requests."""
        self._state.connections.discard(cast("Any", self))
        self._stop_timer()
        self._may_write.set()
        for request, stream in self._requests.values():
            stream.leave()
            request.leave()

    def pause_writing(self) -> None:
        """The peer takes less than it is sent: nothing more is read that would have to be answered."""
        self._may_write.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer has taken it."""
        self._may_write.set()
        self._transport.resume_reading()

    def shutdown(self) -> None:
        """Closes the connection, once the responses under way have ended."""
        self._is_ending = True
        if not self._requests:
            self._close()

    # ---- h2's side ----

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                self._take_body(event)
            case StreamEnded() if event.stream_id in self._requests:
                self._requests[event.stream_id][0].end_body()
            case WindowUpdated() if event.stream_id == 0:
                for _, stream in self._requests.values():
                    stream.window.set()
            case WindowUpdated() if event.stream_id in self._requests:
                self._requests[event.stream_id][1].window.set()
            case StreamReset():
                self._take_reset(event)
            case PingAckReceived():
                self._sign_n += 1
            case ConnectionTerminated():
                self._transport.close()
            case _:  # settings, pings and priorities are answered by h2
                for _, stream in self._requests.values():  # larger initial windows come with settings
                    stream.window.set()

    def _begin(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if self._is_ending:
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._stop_timer()
        stream = Http2Stream(stream_id, self._h2, self._flush, self._transport, self._may_write, self._ask_for_sign)
        request = Http2Request(stream, self._scope(event.headers))
        self._requests[stream_id] = (request, stream)
        task = self._loop.create_task(request.run(self._app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        task.add_done_callback(lambda _: self._end(stream_id))

    def _take_body(self, event: DataReceived) -> None:
        credit = event.flow_controlled_length
        if event.stream_id in self._requests:
            self._requests[event.stream_id][0].take_body(event.data, credit)
        else:  # of a stream that we have ended
            self._h2.acknowledge_received_data(credit, event.stream_id)

    def _take_reset(self, event: StreamReset) -> None:
        if event.remote_reset:
            self._reset_n += 1
        if event.stream_id in self._requests:
            request, stream = self._requests[event.stream_id]
            stream.leave()
            request.leave()
        if self._reset_n > RESETS_MAX:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._flush()
            self._transport.close()

    def _scope(self, headers: Headers) -> Scope:
        fields = dict(headers)
        path, _, query = fields.get(b":path", b"").partition(b"?")  # CONNECT has none
        ordinary = [(name, value) for name, value in headers if not name.startswith(b":")]
        if b":authority" in fields and b"host" not in fields:
            ordinary.insert(0, (b"host", fields[b":authority"]))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "method": fields[b":method"].decode("latin-1"),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": ordinary,
            "client": self._transport.get_extra_info("peername")[:2],
            "server": self._transport.get_extra_info("sockname")[:2],
            "state": {},
        }

    def _end(self, stream_id: int) -> None:
        self._requests.pop(stream_id)
        if self._requests or self._transport.is_closing():
            return
        if self._is_ending:
            self._close()
        else:
            self._await_request(self._keep_alive_s)

    # ---- the socket ----

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _ask_for_sign(self) -> int:
        if not self._transport.is_closing():
            self._h2.ping(bytes(8))
            self._flush()
        return self._sign_n

    def _close(self) -> None:
        self._h2.close_connection()
        self._flush()
        self._transport.close()

    def _await_request(self, timeout_s: float) -> None:
        self._stop_timer()
        self._idle_timer = self._loop.call_later(timeout_s, self._close)

    def _stop_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
