"""The client side of `POST /stream`: a request over a blocking socket, in HTTP/1.1 or in HTTP/2 without TLS.

Strategy: every primary is asked in HTTP/1.1 first, which costs us least. Go LiteFS answers that with 426, and is
asked again on a second connection in HTTP/2 with prior knowledge. So nothing has to be configured, and a cluster may
change from one implementation to the other node by node.

The socket belongs to the caller, who bounds each wait with its time-out and ends all of them by shutting it down. The
answer's head has a bound as a whole.

Source: LiteFS 0.5.14, POST /stream; RFC 9113, section 3.3; docs/decisions/041-two-protocols-on-one-port.md.
"""

import http.client
import socket
import time
from collections.abc import Mapping
from typing import Any, Protocol, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from litefs.deadline import Deadline
from litefs.errors import PeerError

TARGET = "/stream"

RECEIVE_BYTES = 256 << 10

WINDOW_BYTES = 4 << 20
"""What a primary may send before it is read, as Go's client allows. It lies in the kernel's buffers."""

FRAME_BYTES = 256 << 10
"""Sixteen times the least that HTTP/2 allows: the cost is per frame. Go sends smaller ones all the same."""

HEAD_DEADLINE_S = 10.0
"""From the request to the end of the answer's head, as long as our server waits for that of a request."""


class StreamResponse(Protocol):
    """A response whose body is read as it comes.

    Attributes:
        status: of HTTP.
        headers: by name in lower case.
    """

    status: int
    headers: dict[str, str]

    def read(self) -> bytes:
        """Returns the next bytes of the body, none at its end.

        Raises:
            PeerError: the response was cut off.
            OSError: the connection broke, or nothing came in time.
        """


def post_http1(connection: socket.socket, host: str, headers: Mapping[str, str], body: bytes) -> StreamResponse:
    """Asks in HTTP/1.1 and returns the response.

    Raises:
        PeerError: the answer is none of HTTP/1.1.
        OSError: the connection broke, or nothing came in time.
    """
    with Deadline(connection, HEAD_DEADLINE_S, "head of an answer"):
        return _Http1Response(connection, host, headers, body)


def post_http2(connection: socket.socket, host: str, headers: Mapping[str, str], body: bytes) -> StreamResponse:
    """Asks in HTTP/2 and returns the response.

    Raises:
        PeerError: the peer does not speak it, or refused the stream.
        OSError: the connection broke, or nothing came in time.
    """
    with Deadline(connection, HEAD_DEADLINE_S, "head of an answer"):
        return _Http2Response(connection, host, headers, body)


class _BufferedResponse(http.client.HTTPResponse):
    """With a buffer that a small image and what surrounds it fit into: one receive instead of three."""

    def __init__(self, connection: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(connection, *args, **options)
        self.fp.close()
        self.fp = cast(Any, connection.makefile("rb", RECEIVE_BYTES))


class _Http1Response:
    def __init__(self, connection: socket.socket, host: str, headers: Mapping[str, str], body: bytes) -> None:
        client = http.client.HTTPConnection(host)
        client.sock = connection
        client.response_class = _BufferedResponse
        try:
            client.request("POST", TARGET, body=body, headers=dict(headers))
            self._response = client.getresponse()
        except http.client.HTTPException as error:
            raise PeerError(f"no answer of HTTP: {str(error) or type(error).__name__}") from error
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read(self) -> bytes:
        try:
            return self._response.read1(RECEIVE_BYTES)
        except http.client.HTTPException as error:
            raise PeerError(f"the response was cut off: {str(error) or type(error).__name__}") from error


class _Http2Response:
    def __init__(self, connection: socket.socket, host: str, headers: Mapping[str, str], body: bytes) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
                SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES,
            },
        )
        self._h2.max_inbound_frame_size = FRAME_BYTES  # h2 takes this from settings only when they change
        self._parts: list[bytes] = []
        self._is_ended = False
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES - self._h2.inbound_flow_control_window)
        self._stream_id = self._h2.get_next_available_stream_id()
        self._ask(host, headers, body)
        while not self.status:
            self._receive()

    def read(self) -> bytes:
        begun, timeout_s = time.monotonic(), self._connection.gettimeout()
        while not self._parts and not self._is_ended:
            self._receive()
            if timeout_s is not None and not self._parts and time.monotonic() > begun + timeout_s:
                raise TimeoutError(f"nothing but control frames for {timeout_s:g} s")
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    def _ask(self, host: str, headers: Mapping[str, str], body: bytes) -> None:
        head = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", TARGET)]
        head += [("content-length", str(len(body)))] + [(name.lower(), value) for name, value in headers.items()]
        self._h2.send_headers(self._stream_id, head)
        rest = memoryview(body)
        while rest:
            window = min(self._h2.local_flow_control_window(self._stream_id), self._h2.max_outbound_frame_size)
            if window <= 0:
                self._receive()
                if self.status:
                    return  # refused before it was whole
                continue
            self._h2.send_data(self._stream_id, rest[:window])
            rest = rest[window:]
        self._h2.end_stream(self._stream_id)
        self._flush()

    def _receive(self) -> None:
        """Waits for bytes and takes what they complete."""
        self._flush()
        data = self._connection.recv(RECEIVE_BYTES)
        if not data:
            raise PeerError("the connection was closed in the middle of a response")
        try:
            events = self._h2.receive_data(data)
        except H2Error as error:
            raise PeerError(f"not HTTP/2: {error}") from error
        for event in events:
            match event:
                case DataReceived():
                    self._parts.append(event.data)
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case ResponseReceived():
                    fields = {str(name): str(value) for name, value in event.headers}
                    self.headers, self.status = fields, int(fields[":status"])
                case StreamEnded():
                    self._is_ended = True
                case StreamReset():
                    raise PeerError(f"the stream was reset: {_name_of(event.error_code)}")
                case ConnectionTerminated() if event.error_code != ErrorCodes.NO_ERROR:
                    raise PeerError(f"the connection was ended: {_name_of(event.error_code)}")
                case _:
                    pass  # h2 answers settings and pings itself; the end of a connection shows in the socket
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._connection.sendall(data)


def _name_of(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
