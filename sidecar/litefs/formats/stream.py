"""The frames of the replication stream, and the position map that a replica asks with.

Frame, big-endian: u32 type, then

    1 LTX        u64 size (always 0) | u32 length | name, then the image in chunks
    2 Ready      nothing: all databases were sent once
    3 End        nothing: the sender ends the stream
    4 DropDB     u32 length | name
    5 Handoff    u32 length | lease id
    6 HWM        u64 txid | u32 length | name
    7 Heartbeat  i64 Unix milliseconds

Chunks: { u16 length, 1 … 65535 | bytes }*, then u16 0.

Position map: u32 n, then n × { u32 length | name | u64 txid | u64 checksum }, sorted by name.

Strategy: images pass through in the pieces in which they arrive (`LtxChunk`); the decoder keeps at most one frame head.
A sender that fails inside an image writes its error text where a chunk length belongs: this is no frame and cannot be
told from chunks, so that only `LtxDecoder` and the missing end show it.

Source: superfly/litefs v0.5.14.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from litefs.errors import FormatError
from litefs.formats.database_name import check_database_name
from litefs.formats.position import Checksum, Pos, Txid

NAME_SIZE_MAX = 255
"""Longest name of a database, or lease id, in bytes: the limit of a file name on Linux."""
CHUNK_SIZE = 32768
"""Size of the chunks we send, like those of the Go server."""
CHUNK_TERMINATOR = b"\x00\x00"
_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")
_TYPE_AND_LENGTH = struct.Struct(">II")
_TYPE_NUMBER_LENGTH = struct.Struct(">IQI")
_TYPE_AND_TIME = struct.Struct(">Iq")
_POS = struct.Struct(">QQ")


class FrameType(IntEnum):
    """The first word of a frame."""

    LTX = 1
    READY = 2
    END = 3
    DROP_DB = 4
    HANDOFF = 5
    HWM = 6
    HEARTBEAT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class LtxFrame:
    """An image follows, in chunks.

    Attributes:
        name: of the database.
        size: of the image in bytes; always 0 in practice.
    """

    name: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyFrame:
    """Every database has been sent once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFrame:
    """The sender ends the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropDbFrame:
    """The sender has no such database. Deprecated: receivers log it.

    Attributes:
        name: of the database.
    """

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffFrame:
    """The receiver is to take over the lease.

    Attributes:
        lease_id: of the lease, opaque.
    """

    lease_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HwmFrame:
    """The backup has everything through `txid`.

    Attributes:
        name: of the database.
        txid: the high-water mark.
    """

    name: str
    txid: Txid


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatFrame:
    """The sender is alive and has sent everything.

    Attributes:
        timestamp_ms: the sender's Unix time, in milliseconds.
    """

    timestamp_ms: int


Frame = LtxFrame | ReadyFrame | EndFrame | DropDbFrame | HandoffFrame | HwmFrame | HeartbeatFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class LtxChunk:
    """The next bytes of the image that the last `LtxFrame` announced, as they arrived.

    Attributes:
        data: never empty.
    """

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LtxEnd:
    """The chunks of the image are complete."""


Event = Frame | LtxChunk | LtxEnd


def encode_frame(frame: Frame) -> bytes:
    """Returns the bytes of a frame; after those of an `LtxFrame` go `encode_chunks` and `CHUNK_TERMINATOR`.

    Raises:
        FormatError: a name that cannot be a database's, or a lease id that is too long.
    """
    match frame:
        case LtxFrame(name=name, size=size):
            encoded = encode_name(name)
            return _TYPE_NUMBER_LENGTH.pack(FrameType.LTX, size, len(encoded)) + encoded
        case HwmFrame(name=name, txid=txid):
            encoded = encode_name(name)
            return _TYPE_NUMBER_LENGTH.pack(FrameType.HWM, txid, len(encoded)) + encoded
        case HeartbeatFrame(timestamp_ms=timestamp_ms):
            return _TYPE_AND_TIME.pack(FrameType.HEARTBEAT, timestamp_ms)
        case DropDbFrame(name=name):
            encoded = encode_name(name)
            return _TYPE_AND_LENGTH.pack(FrameType.DROP_DB, len(encoded)) + encoded
        case HandoffFrame(lease_id=lease_id):
            encoded = lease_id.encode()
            _check_length(len(encoded))
            return _TYPE_AND_LENGTH.pack(FrameType.HANDOFF, len(encoded)) + encoded
        case ReadyFrame():
            return _U32.pack(FrameType.READY)
        case EndFrame():
            return _U32.pack(FrameType.END)


def encode_chunks(data: bytes | bytearray | memoryview) -> bytes:
    """Returns `data` as chunks, without the end: call it for each piece of an image, then send `CHUNK_TERMINATOR`."""
    view = memoryview(data)
    parts: list[bytes | memoryview] = []
    for offset in range(0, len(view), CHUNK_SIZE):
        chunk = view[offset : offset + CHUNK_SIZE]
        parts.append(_U16.pack(len(chunk)))
        parts.append(chunk)
    return b"".join(parts)


def encode_name(name: str) -> bytes:
    """Returns the bytes of a database's name.

    Raises:
        FormatError: it cannot be one.
    """
    check_database_name(name)
    return name.encode()


def _check_length(length: int) -> None:
    if length > NAME_SIZE_MAX:
        raise FormatError(f"a name of {length} bytes, {NAME_SIZE_MAX} are allowed")


class StreamDecoder:
    """A push parser of a stream. After an error it is of no further use."""

    def __init__(self) -> None:
        """Begins between two frames."""
        self._rest = b""
        self._is_in_image = False
        self._chunk_left = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Takes the next bytes and returns what they complete; parts of chunks are returned as they come.

        Raises:
            FormatError: an unknown type, or a name that cannot be one.
        """
        buffer = b"".join((self._rest, data))
        events: list[Event] = []
        offset = 0
        while True:
            taken = (
                self._take_chunk(buffer, offset, events)
                if self._is_in_image
                else self._take_frame(buffer, offset, events)
            )
            if not taken:
                break
            offset += taken
        self._rest = buffer[offset:]
        return events

    @property
    def is_between_frames(self) -> bool:
        """Whether all that was fed are whole frames and images."""
        return not self._rest and not self._is_in_image

    def finish(self) -> None:
        """Says that the stream has ended.

        Raises:
            FormatError: in the middle of a frame or an image.
        """
        if not self.is_between_frames:
            raise FormatError("the stream ends inside a frame")

    def _take_chunk(self, buffer: bytes, offset: int, events: list[Event]) -> int:
        """Returns how many bytes were taken from `offset`, 0 if none can be."""
        if self._chunk_left:
            data = buffer[offset : offset + self._chunk_left]
            if data:
                self._chunk_left -= len(data)
                events.append(LtxChunk(data=data))
            return len(data)
        if offset + 2 > len(buffer):
            return 0
        self._chunk_left = _U16.unpack_from(buffer, offset)[0]
        if not self._chunk_left:
            self._is_in_image = False
            events.append(LtxEnd())
        return 2

    def _take_frame(self, buffer: bytes, offset: int, events: list[Event]) -> int:
        """Returns how many bytes were taken from `offset`, 0 if the frame is not complete."""
        try:
            frame, size = _decode_frame(buffer, offset)
        except struct.error:
            return 0
        self._is_in_image = isinstance(frame, LtxFrame)
        events.append(frame)
        return size


def _decode_frame(buffer: bytes, offset: int) -> tuple[Frame, int]:
    """Returns the frame at `offset` and its size; raises struct.error if it is not complete."""
    frame_type: int = _U32.unpack_from(buffer, offset)[0]
    match frame_type:
        case FrameType.LTX | FrameType.HWM:
            _, number, length = _TYPE_NUMBER_LENGTH.unpack_from(buffer, offset)
            name, size = _decode_text(buffer, offset, _TYPE_NUMBER_LENGTH.size, length)
            check_database_name(name)
            if frame_type == FrameType.LTX:
                return LtxFrame(name=name, size=number), size
            return HwmFrame(name=name, txid=Txid(number)), size
        case FrameType.DROP_DB | FrameType.HANDOFF:
            _, length = _TYPE_AND_LENGTH.unpack_from(buffer, offset)
            text, size = _decode_text(buffer, offset, _TYPE_AND_LENGTH.size, length)
            if frame_type == FrameType.HANDOFF:
                return HandoffFrame(lease_id=text), size
            check_database_name(text)
            return DropDbFrame(name=text), size
        case FrameType.READY:
            return ReadyFrame(), _U32.size
        case FrameType.END:
            return EndFrame(), _U32.size
        case FrameType.HEARTBEAT:
            return HeartbeatFrame(timestamp_ms=_TYPE_AND_TIME.unpack_from(buffer, offset)[1]), _TYPE_AND_TIME.size
        case _:
            raise FormatError(f"unknown stream frame type {frame_type:#010x}")


def _decode_text(buffer: bytes, offset: int, head_size: int, length: int) -> tuple[str, int]:
    """Returns the text behind the head of a frame and the size of both; raises struct.error if it is not complete."""
    _check_length(length)
    start = offset + head_size
    (encoded,) = struct.unpack_from(f"{length}s", buffer, start)
    try:
        return encoded.decode(), head_size + length
    except UnicodeDecodeError:
        raise FormatError(f"not UTF-8: {encoded!r}") from None


def encode_position_map(positions: Mapping[str, Pos]) -> bytes:
    """Returns the position map of a replica, sorted by name.

    Raises:
        FormatError: a name that cannot be a database's.
    """
    parts = [_U32.pack(len(positions))]
    for name, pos in sorted((encode_name(name), pos) for name, pos in positions.items()):
        parts.append(_U32.pack(len(name)) + name + _POS.pack(pos.txid, pos.checksum))
    return b"".join(parts)


def decode_position_map(data: bytes) -> dict[str, Pos]:
    """Reads a whole position map.

    Raises:
        FormatError: cut short, with bytes behind it, with a name twice, or with a name that cannot be a database's.
    """
    positions: dict[str, Pos] = {}
    offset = _U32.size
    try:
        (n,) = _U32.unpack_from(data)
        for _ in range(n):
            (length,) = _U32.unpack_from(data, offset)
            name, size = _decode_text(data, offset, _U32.size, length)
            txid, checksum = _POS.unpack_from(data, offset + size)
            check_database_name(name)
            if name in positions:
                raise FormatError(f"position map: {name!r} twice")
            positions[name] = Pos(txid=Txid(txid), checksum=Checksum(checksum))
            offset += size + _POS.size
    except struct.error:
        raise FormatError("position map: cut short") from None
    if offset != len(data):
        raise FormatError(f"position map: {len(data) - offset} bytes behind it")
    return positions
