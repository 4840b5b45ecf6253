"""Images of the log as framed bytes of a replication stream.

Strategy: small images are put together into blocks of `BLOCK_BYTES`, so that a follower that is behind
costs one write per block and not per transaction; a large image is read and framed a block at a time.
Images leave as they lie in the log, byte for byte.

Rules of this file: it blocks on the disk. Nothing is sent that does not follow the follower's position:
before an image begins, its pre-apply checksum is compared. An exception that means "send a snapshot
instead" leaves at the boundary of an image only, when all that was yielded is whole.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from litefs.errors import ChecksumError, CorruptStateError, FormatError, PositionMismatchError
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_decoder import LtxDecoder
from litefs.formats.position import Checksum, Pos, Txid
from litefs.formats.stream import CHUNK_TERMINATOR, LtxFrame, encode_chunks, encode_frame
from litefs.storage.log_reader import ImageRef, LogGapError, LogReader

BLOCK_BYTES = 256 << 10
"""Per block sent. From 64 KiB on the cost per block is lost in that of the bytes (uvicorn, measured 2026-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Bytes of the stream.

    Attributes:
        data: to be sent.
        pos: the follower's position once it has them; None within an image.
        image_n: how many images are complete with them.
    """

    data: bytes
    pos: Pos | None = None
    image_n: int = 0


def framed_images(
    log: LogReader, name: str, follower: Pos, last_txid: Txid, *, verify: bool
) -> Generator[Block, None, None]:
    """Yields the images that take a follower from its position to `last_txid`.

    Args:
        log: of this database; not used elsewhere until the generator ends.
        name: of the database.
        follower: what the images must follow.
        last_txid: last committed transaction; what the log holds beyond may yet be aborted.
        verify: check each image's file checksum before it is sent, for images that were not just written.

    Raises:
        LogGapError: the log does not hold the next image (any more).
        PositionMismatchError: the next image follows another state than the follower's.
        FormatError: the next image is damaged on disk.
        CorruptStateError: an image turned out unreadable when half of it was sent.
    """
    parts: list[bytes] = []
    size = 0
    pos = follower
    try:
        for ref in log.images(follower.txid + 1, last_txid):
            image = log.read(ref, 0, min(ref.size, BLOCK_BYTES))
            _check_follows(ref, image, pos)
            if verify:
                _verify(log, ref, image)
            if size and size + ref.size > BLOCK_BYTES:
                yield _block(parts, pos)
                parts, size = [], 0
            if ref.size > BLOCK_BYTES:
                yield from _large_image(log, ref, name)
                pos = _pos_after(ref)
                continue
            parts.append(encode_frame(LtxFrame(name=name)) + encode_chunks(image) + CHUNK_TERMINATOR)
            size += ref.size
            pos = _pos_after(ref)
    except (LogGapError, PositionMismatchError, FormatError):
        if parts:
            yield _block(parts, pos)
        raise
    if parts:
        yield _block(parts, pos)


def _block(images: list[bytes], pos: Pos) -> Block:
    return Block(data=b"".join(images), pos=pos, image_n=len(images))


def _pos_after(ref: ImageRef) -> Pos:
    return Pos(txid=Txid(ref.max_txid), checksum=Checksum(ref.post_apply))


def _check_follows(ref: ImageRef, image: bytes, pos: Pos) -> None:
    header = LtxHeader.decode(image)
    if (header.min_txid, header.max_txid) != (ref.min_txid, ref.max_txid):
        raise ChecksumError(f"{ref.path}: image {ref.min_txid:016x} says that it is {header.min_txid:016x}")
    if header.pre_apply != pos.checksum:
        raise PositionMismatchError(
            f"image {ref.min_txid:016x} follows checksum {header.pre_apply:016x}, the follower has {pos.checksum:016x}"
        )


def _pieces(log: LogReader, ref: ImageRef) -> Iterator[bytes]:
    for start in range(0, ref.size, BLOCK_BYTES):
        yield log.read(ref, start, min(BLOCK_BYTES, ref.size - start))


def _verify(log: LogReader, ref: ImageRef, beginning: bytes) -> None:
    decoder = LtxDecoder()
    for piece in [beginning] if len(beginning) == ref.size else _pieces(log, ref):
        decoder.feed(piece)
    if not decoder.done or decoder.unused:
        raise ChecksumError(f"{ref.path}: image {ref.min_txid:016x} does not end where its record ends")


def _large_image(log: LogReader, ref: ImageRef, name: str) -> Iterator[Block]:
    try:
        prefix = encode_frame(LtxFrame(name=name))
        for piece in _pieces(log, ref):
            yield Block(data=prefix + encode_chunks(piece))
            prefix = b""
        yield Block(data=CHUNK_TERMINATOR, pos=_pos_after(ref), image_n=1)
    except LogGapError as error:
        raise CorruptStateError(f"image {ref.min_txid:016x} of {name!r} ended half sent: {error}") from error
