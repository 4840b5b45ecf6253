"""The bytes of a log segment: a header, then records, each an LTX image behind a fixed header.

Segment header, 64 bytes, big-endian:

    offset size field
    0      8    magic "LFSLOG01"
    8      8    segment id, random: records of another life of these blocks do not count
    16     40   zero: it is written before anybody knows which image comes first; the file's name says that
    56     8    CRC-64 of bytes 0–55

Record, at a multiple of 8, big-endian:

    offset size field
    0      4    magic "LREC"
    4      1    state: "L" live, "P" prepared as part of a transaction over several databases
    5      3    zero
    8      8    length of the image in bytes
    16     8    min_txid
    24     8    max_txid
    32     8    group: mark that the images of one multi-database transaction share; 0: none
    40     8    post-apply checksum of the image
    48     8    segment id
    56     8    durable: every image through this txid was durable when this one was appended
    64     8    CRC-64 of bytes 0–63, the state taken as zero
    72     …    the LTX image, byte for byte; then zeros up to a multiple of 8

The state is one byte outside the CRC, so that it changes in one piece whatever a power cut tears; the letters
differ in two bits at least, so that a flipped bit makes none of them into another.

The log of a database ends where no valid record follows, or where the image behind it does not verify:
a torn tail. If a later record says that what is missing was durable, it is damage and not a tail.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from litefs.errors import FormatError
from litefs.formats.checksum import crc64

SEGMENT_MAGIC = b"LFSLOG01"
RECORD_MAGIC = b"LREC"
SEGMENT_HEADER_SIZE = 64
RECORD_HEADER_SIZE = 72
RECORD_ALIGNMENT = 8
STATE_OFFSET = 4
"""Of the state within a record header."""

_SEGMENT = struct.Struct(">8sQ40x")
_RECORD = struct.Struct(">4sB3xQQQQQQQ")
_U64 = struct.Struct(">Q")
assert _SEGMENT.size == SEGMENT_HEADER_SIZE - 8
assert _RECORD.size == RECORD_HEADER_SIZE - 8


class RecordState(IntEnum):
    """What a record counts for at recovery."""

    LIVE = ord("L")
    PREPARED = ord("P")


_STATES = frozenset(RecordState)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """What stands before an image in the log."""

    state: RecordState
    length: int
    min_txid: int
    max_txid: int
    group: int
    post_apply: int
    segment_id: int
    durable: int


def encode_record_header(
    state: int, length: int, min_txid: int, max_txid: int, group: int, post_apply: int, segment_id: int, durable: int
) -> bytes:
    """Returns the 72 bytes before an image: plain values, for the commit path."""
    body = _RECORD.pack(RECORD_MAGIC, 0, length, min_txid, max_txid, group, post_apply, segment_id, durable)
    return b"%b%c%b%b" % (RECORD_MAGIC, state, body[STATE_OFFSET + 1 :], _U64.pack(crc64(body)))


def decode_record_header(data: bytes) -> RecordHeader:
    """Reads the 72 bytes before an image.

    Raises:
        FormatError: short, wrong magic, unknown state or wrong CRC: the log ends here.
    """
    if len(data) < RECORD_HEADER_SIZE or data[:4] != RECORD_MAGIC:
        raise FormatError("no log record here")
    _, state, length, min_txid, max_txid, group, post_apply, segment_id, durable = _RECORD.unpack_from(data)
    stateless = b"%b\0%b" % (RECORD_MAGIC, data[STATE_OFFSET + 1 : _RECORD.size])
    if _U64.unpack_from(data, _RECORD.size)[0] != crc64(stateless):
        raise FormatError("log record header: wrong CRC")
    if state not in _STATES:
        raise FormatError(f"log record header: unknown state {state}")
    return RecordHeader(
        state=RecordState(state),
        length=length,
        min_txid=min_txid,
        max_txid=max_txid,
        group=group,
        post_apply=post_apply,
        segment_id=segment_id,
        durable=durable,
    )


def encode_segment_header(segment_id: int) -> bytes:
    """Returns the 64 bytes at the start of a segment."""
    body = _SEGMENT.pack(SEGMENT_MAGIC, segment_id)
    return body + _U64.pack(crc64(body))


def decode_segment_header(data: bytes) -> int:
    """Returns the segment id.

    Raises:
        FormatError: short, wrong magic or wrong CRC.
    """
    if len(data) < SEGMENT_HEADER_SIZE or data[:8] != SEGMENT_MAGIC:
        raise FormatError("no log segment")
    body = data[: _SEGMENT.size]
    if _U64.unpack_from(data, _SEGMENT.size)[0] != crc64(body):
        raise FormatError("log segment header: wrong CRC")
    segment_id: int = _SEGMENT.unpack(body)[1]
    return segment_id


def padded(length: int) -> int:
    """Returns the length of an image with the zeros behind it."""
    return -(-length // RECORD_ALIGNMENT) * RECORD_ALIGNMENT


def segment_name(first_txid: int) -> str:
    """Returns the file name of the segment whose first image is `first_txid`."""
    return f"{first_txid:016x}.ltxlog"


def segment_txid(name: str) -> int | None:
    """Returns the first txid that a file name claims, or None if it is no segment's name."""
    stem, dot, suffix = name.partition(".")
    if len(stem) != 16 or not dot or suffix != "ltxlog":
        return None
    try:
        return int(stem, 16)
    except ValueError:
        return None
