"""Several replication streams over one connection, between nodes of this implementation.

A stream is a sequence of whole images, so a snapshot of one database would hold up the commits of all others. With
channels each snapshot has a stream of its own, and pieces of all of them take turns. Channel 0 carries everything else.

Piece, big-endian:

    u32 channel | u32 length | bytes, the next ones of that channel's stream

A follower offers this by the header `Litefs-Stream-Version: 2` in its request, and gets it where the response carries
the same header; Go LiteFS ignores it on either side, and then the body is one plain stream.
"""

import struct

from litefs.errors import FormatError

VERSION_HEADER = "Litefs-Stream-Version"
VERSION = "2"

LIVE_CHANNEL = 0
CHANNEL_MAX = 15
"""A follower keeps a decoder and one image for each."""

_HEAD = struct.Struct(">II")


def encode_piece(channel: int, data: bytes) -> bytes:
    """Returns bytes of one channel's stream as they go over the connection."""
    return _HEAD.pack(channel, len(data)) + data


class ChannelDecoder:
    """A push parser that sorts bytes by channel. It keeps no more than a head. After an error it is of no use."""

    def __init__(self) -> None:
        """Begins between two pieces."""
        self._rest = b""
        self._channel = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Takes the next bytes and returns what there is of (channel, bytes), in their order.

        Raises:
            FormatError: a channel that is too high.
        """
        buffer = self._rest + data if self._rest else data
        found: list[tuple[int, bytes]] = []
        offset = 0
        while True:
            if self._left:
                part = buffer[offset : offset + self._left]
                if not part:
                    break
                found.append((self._channel, part))
                offset += len(part)
                self._left -= len(part)
                continue
            if len(buffer) - offset < _HEAD.size:
                break
            self._channel, self._left = _HEAD.unpack_from(buffer, offset)
            offset += _HEAD.size
            if self._channel > CHANNEL_MAX:
                raise FormatError(f"channel {self._channel} of a stream, {CHANNEL_MAX} is the highest")
        self._rest = buffer[offset:]
        return found

    def finish(self) -> None:
        """Says that the connection has ended.

        Raises:
            FormatError: in the middle of a piece.
        """
        if self._rest or self._left:
            raise FormatError("the stream ends inside a piece")
