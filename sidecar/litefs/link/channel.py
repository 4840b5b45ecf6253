"""Frames typed messages on a stream socket: u32 length (big-endian), then MessagePack.

Strategy: `MessageDecoder` is fed what the socket gave and yields whole messages; `encode` makes one
frame. Neither touches a socket, so the poll loop of the filesystem and the threads of the node share them.
"""

import struct
from typing import Generic, TypeVar

import msgspec

from litefs.errors import FormatError

_LENGTH = struct.Struct(">I")
MESSAGE_BYTES_MAX = 8 << 20
"""Larger images are spooled to a file: a message is copied several times on its way."""

M = TypeVar("M")
_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Returns the frame of one message."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class MessageDecoder(Generic[M]):
    """Cuts a byte stream into messages of one union type."""

    def __init__(self, union: object) -> None:
        """Args: union: a union of tagged `msgspec.Struct` types, all of which may arrive."""
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Returns the messages that `data` completes.

        Raises:
            FormatError: a length above the bound, or a body that is no message of the union.
        """
        buffer = self._buffer
        buffer += data
        messages: list[M] = []
        start = 0
        while len(buffer) - start >= 4:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > MESSAGE_BYTES_MAX:
                raise FormatError(f"link message of {size} bytes, at most {MESSAGE_BYTES_MAX} are allowed")
            if len(buffer) - start - 4 < size:
                break
            try:
                messages.append(self._decoder.decode(memoryview(buffer)[start + 4 : start + 4 + size]))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise FormatError(f"link message: {error}") from error
            start += 4 + size
        if start:
            del buffer[:start]
        return messages
