"""The HTTP API on a real socket and a real event loop, and clients that speak to it byte by byte."""

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop

from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_decoder import decode_image
from litefs.formats.position import Checksum, Pos, Txid
from litefs.formats.stream import (
    EndFrame,
    Event,
    Frame,
    HeartbeatFrame,
    LtxChunk,
    LtxEnd,
    LtxFrame,
    ReadyFrame,
    StreamDecoder,
    encode_position_map,
)
from litefs.formats.stream_channels import VERSION, VERSION_HEADER, ChannelDecoder
from litefs.http.listener import listen
from litefs.http.live_streams import LiveStreams
from litefs.http.replication import StreamSettings
from litefs.http.service import serve
from tests.unit.http.fake_node import FakeNode

TIMEOUT_S = 20.0
"""Only a hang takes that long."""


class Served:
    """One node's API in a thread of this process."""

    def __init__(
        self, node: FakeNode, settings: StreamSettings, *, token: str = "", open_metrics: bool = False
    ) -> None:
        self.node = node
        listener = listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self._settings = settings
        self._token = token
        self._open_metrics = open_metrics
        self.offers_channels = False
        """Whether followers say that they know channels."""
        self.streams: list[LiveStreams] = []
        """What the node is given to hand its lease over through."""
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()
        assert self.request("GET", "/healthz").status == 200

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                serve(
                    self.node,
                    listener,
                    self._settings,
                    self._stopping,
                    self.streams.append,
                    token=self._token,
                    open_metrics=self._open_metrics,
                )
            )
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def stop(self) -> None:
        """Ends the service as SIGTERM does, and waits for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    @contextmanager
    def follow(
        self, positions: Mapping[str, Pos] | None = None, *, query: str = "", node_id: str = "00000000000000AB"
    ) -> "Iterator[Follow]":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        headers = {"Litefs-Id": node_id} | ({VERSION_HEADER: VERSION} if self.offers_channels else {})
        try:
            connection.request("POST", f"/stream{query}", encode_position_map(positions or {}), headers)
            yield Follow(connection.getresponse())
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A verified image that came over a stream."""

    name: str
    header: LtxHeader
    pages: dict[int, bytes]
    post_apply: int
    data: bytes

    @property
    def pos(self) -> Pos:
        return Pos(txid=self.header.max_txid, checksum=Checksum(self.post_apply))


class Follow:
    """The response to `POST /stream`, frame by frame."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.has_channels = response.getheader(VERSION_HEADER) == VERSION
        self._channels = ChannelDecoder()
        self._decoders: dict[int, StreamDecoder] = {}
        self._names: dict[int, str] = {}
        self._parts: dict[int, bytearray] = {}
        self._frames: list[tuple[int, Frame | Image]] = []

    def next(self) -> "Frame | Image | None":
        """Returns the next frame, an LTX frame with its image, decoded; None at the end, which must be between two."""
        arrived = self.next_of()
        return arrived[1] if arrived is not None else None

    def next_of(self) -> "tuple[int, Frame | Image] | None":
        """Returns the channel too. Images count when they are complete."""
        while not self._frames:
            data = self.response.read1(1 << 16)
            if not data:
                self._channels.finish()
                for decoder in self._decoders.values():
                    decoder.finish()
                return None
            for channel, part in self._channels.feed(data) if self.has_channels else [(0, data)]:
                decoder = self._decoders.setdefault(channel, StreamDecoder())
                for event in decoder.feed(part):
                    self._take(channel, event)
        return self._frames.pop(0)

    def _take(self, channel: int, event: Event) -> None:
        if isinstance(event, LtxFrame):
            self._names[channel], self._parts[channel] = event.name, bytearray()
        elif isinstance(event, LtxChunk):
            self._parts[channel] += event.data
        elif isinstance(event, LtxEnd):
            data = bytes(self._parts.pop(channel))
            header, pages, trailer = decode_image(data)
            image = Image(self._names[channel], header, dict(pages), trailer.post_apply, data)
            self._frames.append((channel, image))
        else:
            self._frames.append((channel, event))

    def image(self) -> Image:
        """Returns the next image; heartbeats are skipped."""
        while isinstance(frame := self.next(), HeartbeatFrame):
            pass
        assert isinstance(frame, Image), frame
        return frame

    def until_ready(self) -> list[Image]:
        """Returns the images that come before Ready; the heartbeat behind it is read too."""
        images: list[Image] = []
        while not isinstance(frame := self.next(), ReadyFrame):
            if not self.has_channels or not isinstance(frame, HeartbeatFrame):
                assert isinstance(frame, Image), frame
                images.append(frame)
        assert isinstance(self.next(), HeartbeatFrame)
        return images

    def until_end(self) -> list[Image]:
        """Returns the images that come before End, which must be the last frame."""
        images: list[Image] = []
        while not isinstance(frame := self.next(), EndFrame):
            assert isinstance(frame, Image | HeartbeatFrame), frame
            if isinstance(frame, Image):
                images.append(frame)
        assert self.next() is None
        return images


def pos(txid: int, checksum: int) -> Pos:
    return Pos(txid=Txid(txid), checksum=Checksum(checksum))
