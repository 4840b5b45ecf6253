"""A client that speaks HTTP/2 with prior knowledge, frame by frame: it reads, and credits, only when it is told to."""

import socket
from collections.abc import Mapping

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset

from tests.unit.http.serving import Answer, Served


class Http2Client:
    """One connection; leaves the socket's time-out as the bound of every wait."""

    def __init__(self, served: Served, *, piecemeal: bool = False) -> None:
        """Args: piecemeal: every byte is a write of its own."""
        self._step = 1 if piecemeal else 1 << 20
        self.socket = served.connect()
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.flush()

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        for start in range(0, len(data), self._step):
            self.socket.sendall(data[start : start + self._step])

    def begin(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Sends a request and returns the number of its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "litefs")]
        self.h2.send_headers(stream_id, [*head, *(headers or {}).items()], end_stream=not body)
        self.flush()
        for start in range(0, len(body), 16384):
            piece = body[start : start + 16384]
            while not self._is_over(stream_id) and self.h2.local_flow_control_window(stream_id) < len(piece):
                if not self.receive():
                    raise ConnectionError("end of the connection")
            if self._is_over(stream_id):
                return stream_id  # answered without the rest
            self.h2.send_data(stream_id, piece, end_stream=start + len(piece) == len(body))
            self.flush()
        return stream_id

    def _is_over(self, stream_id: int) -> bool:
        return any(
            isinstance(event, StreamEnded | StreamReset) and event.stream_id == stream_id for event in self.events
        )

    def receive(self, *, credit: bool = True) -> bool:
        """Reads once and notes the events; False at the end of the connection."""
        data = self.socket.recv(1 << 16)
        if not data:
            return False
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, DataReceived) and credit:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.events += events
        self.flush()
        return True

    def answer(self, stream_id: int) -> Answer:
        """Returns the whole response of a stream.

        Raises:
            ConnectionError: it was reset, or the connection ended.
        """
        status, headers, body = 0, {}, bytearray()
        while True:
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, ConnectionTerminated):
                    raise ConnectionError(event.error_code)
                if getattr(event, "stream_id", None) != stream_id:
                    continue
                if isinstance(event, ResponseReceived):
                    headers = {str(name): str(value) for name, value in event.headers}
                    status = int(headers.pop(":status"))
                elif isinstance(event, DataReceived):
                    body += event.data
                elif isinstance(event, StreamReset):
                    raise ConnectionError(event.error_code)
                elif isinstance(event, StreamEnded):
                    self.events = [other for other in self.events if getattr(other, "stream_id", None) != stream_id]
                    return Answer(status, headers, bytes(body))
            if not self.receive():
                raise ConnectionError("end of the connection")

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Sends a request and returns the whole response."""
        return self.answer(self.begin(method, path, body, headers))

    def shutdown(self) -> None:
        """Ends both directions of the socket."""
        self.socket.shutdown(socket.SHUT_RDWR)
