"""Reads images out of a log that another process may be appending to.

Strategy: the reader knows from the link how far the log is committed and never looks past that. It
finds the segment by its name, walks the record headers, and hands out places; images
are read piece by piece from there. A segment that is removed meanwhile stays readable: it is open.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import CorruptStateError, FormatError
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    RecordHeader,
    decode_record_header,
    decode_segment_header,
    padded,
    segment_name,
    segment_txid,
)

OPEN_SEGMENTS_MAX = 4
"""A follower reads forward, so few segments are in use at a time."""


class LogGapError(CorruptStateError):
    """The log does not hold the images asked for (any more): a snapshot is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where an image lies in the log: `size` bytes from `offset` of the file `path`."""

    min_txid: int
    max_txid: int
    post_apply: int
    path: Path
    offset: int
    size: int


@dataclass(slots=True)
class _OpenSegment:
    fd: int
    segment_id: int


class LogReader:
    """Finds and reads images of one database. Not thread-safe: one reader per thread."""

    def __init__(self, log_dir: Path) -> None:
        """Args: log_dir: the directory of the segments; it may not exist yet."""
        self._log_dir = log_dir
        self._open: dict[Path, _OpenSegment] = {}
        self._next: tuple[int, Path, int] | None = None  # (txid, path, offset) behind the last image handed out

    def images(self, first_txid: int, last_txid: int) -> Iterator[ImageRef]:
        """Yields the contiguous run of images from `first_txid` through `last_txid`.

        Raises:
            LogGapError: the log does not hold all of them.
        """
        txid = first_txid
        path, offset = self._find(first_txid)
        while txid <= last_txid:
            ref, path, offset = self._next_image(path, offset, txid)
            if ref.min_txid > txid:
                raise LogGapError(f"{self._log_dir}: image {txid:016x} is not in the log")
            if ref.max_txid < txid:
                continue
            if ref.min_txid != txid:
                raise LogGapError(f"{self._log_dir}: no image starts at {txid:016x}")
            txid = ref.max_txid + 1
            self._next = (txid, path, offset)
            yield ref

    def read(self, ref: ImageRef, start: int, length: int) -> bytes:
        """Returns bytes `start`..`start+length` of an image.

        Raises:
            LogGapError: the segment is gone.
        """
        data = os.pread(self._segment(ref.path).fd, length, ref.offset + start)
        if len(data) != length:
            raise LogGapError(f"{ref.path}: image {ref.min_txid:016x} is cut short")
        return data

    def close(self) -> None:
        """Closes all descriptors."""
        for segment in self._open.values():
            os.close(segment.fd)
        self._open.clear()
        self._next = None

    def _find(self, txid: int) -> tuple[Path, int]:
        """Returns a place (path, offset) at or before the image `txid`."""
        if self._next is not None and self._next[0] == txid:
            return self._next[1], self._next[2]
        try:
            names = os.listdir(self._log_dir)
        except FileNotFoundError:
            raise LogGapError(f"{self._log_dir}: no log") from None
        firsts = [first for name in names if (first := segment_txid(name)) is not None and first <= txid]
        if not firsts:
            raise LogGapError(f"{self._log_dir}: image {txid:016x} is not in the log any more")
        return self._log_dir / segment_name(max(firsts)), SEGMENT_HEADER_SIZE

    def _next_image(self, path: Path, offset: int, txid: int) -> tuple[ImageRef, Path, int]:
        """Returns the image at a place, or the first of the next segment, and the place behind it."""
        segment = self._segment(path)
        try:
            header = _record_header(segment, offset)
        except FormatError as error:
            following = self._log_dir / segment_name(txid)
            if following == path:
                raise LogGapError(f"{path}: image {txid:016x} is not there: {error}") from error
            return self._next_image(following, SEGMENT_HEADER_SIZE, txid)
        start = offset + RECORD_HEADER_SIZE
        ref = ImageRef(
            min_txid=header.min_txid,
            max_txid=header.max_txid,
            post_apply=header.post_apply,
            path=path,
            offset=start,
            size=header.length,
        )
        return ref, path, start + padded(header.length)

    def _segment(self, path: Path) -> _OpenSegment:
        segment = self._open.get(path)
        if segment is not None:
            return segment
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LogGapError(f"{path}: segment is gone") from None
        try:
            segment_id = decode_segment_header(os.pread(fd, SEGMENT_HEADER_SIZE, 0))
        except FormatError as error:
            os.close(fd)
            raise LogGapError(f"{path}: {error}") from error
        while len(self._open) >= OPEN_SEGMENTS_MAX:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest).fd)
        opened = self._open[path] = _OpenSegment(fd, segment_id)
        return opened


def _record_header(segment: _OpenSegment, offset: int) -> RecordHeader:
    """Returns the record header at `offset`. Raises FormatError where the segment ends."""
    header = decode_record_header(os.pread(segment.fd, RECORD_HEADER_SIZE, offset))
    if header.segment_id != segment.segment_id:
        raise FormatError("record of another segment")
    return header
