"""Finds the LTX images in files, segments and directories, for the commands that show them.

Strategy: nothing is locked and nothing is written, so the node may be running: a segment is read as far as its records
go, and a file that disappears meanwhile was retired by retention.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from litefs.errors import FormatError, LiteFSError
from litefs.formats.ltx_decoder import LtxDecoder
from litefs.storage.log_format import (
    RECORD_HEADER_SIZE,
    RECORD_MAGIC,
    SEGMENT_HEADER_SIZE,
    RecordHeader,
    RecordState,
    decode_record_header,
    decode_segment_header,
    padded,
    segment_txid,
)

# The decoder may return 255 times what it is fed.
_PIECE_BYTES = 64 << 10
_IMAGE_SUFFIX = ".ltx"
_SEGMENT_SUFFIX = ".ltxlog"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """Where an image lies.

    Attributes:
        series: what belongs together: the directory, for the images of one log follow each other.
        path: the file or segment.
        offset: of its first byte.
        size_bytes: its length.
        state: what the log says about it; LIVE for a file of its own.
    """

    series: Path
    path: Path
    offset: int
    size_bytes: int
    state: RecordState = RecordState.LIVE

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.path}@{self.offset}" if self.path.suffix == _SEGMENT_SUFFIX else str(self.path)

    def decode(self, decoder: LtxDecoder) -> Iterator[tuple[int, bytes]]:
        """Feeds the image to `decoder` and yields its pages as (pgno, page).

        Raises:
            FormatError: the image is damaged, cut short, or something follows it. Pages yielded before do not count.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            rest = self.size_bytes
            while rest:
                piece = file.read(min(rest, _PIECE_BYTES))
                if not piece:
                    break
                rest -= len(piece)
                yield from decoder.feed(piece)
        if not decoder.done:
            raise FormatError(f"LTX image: {self.size_bytes - rest} bytes are not all of it")
        if decoder.unused:
            raise FormatError(f"LTX image: {len(decoder.unused)} bytes behind it")


def images_in(path: Path, database: str = "") -> Iterator[StoredImage]:
    """Yields the images in `path`, in the order of their names.

    Args:
        path: an `.ltx` file, a segment, a directory of either, that of one database, or a data directory.
        database: of a data directory, this database only.

    Raises:
        LiteFSError: there is no such path or database, or the path is of another kind. A data directory may have no
            images yet, any other directory is then none of ours.
    """
    if (path / "dbs").is_dir():
        yield from _images_in_data_directory(path, database)
    elif path.is_dir():
        if not any(map(_is_image_name, os.listdir(path))) and not _log_directories(path):
            raise LiteFSError(f"{path}: no images in it")
        for directory in (path, *_log_directories(path)):
            yield from _images_in_directory(directory)
    elif not path.exists():
        raise LiteFSError(f"{path}: no such file or directory")
    elif path.suffix in {_IMAGE_SUFFIX, _SEGMENT_SUFFIX}:
        yield from _images_in_file(path)
    else:
        raise LiteFSError(f"{path}: neither {_IMAGE_SUFFIX} nor {_SEGMENT_SUFFIX} nor a directory")


def _images_in_data_directory(data_dir: Path, database: str) -> Iterator[StoredImage]:
    databases = data_dir / "dbs"
    if database and not (databases / database).is_dir():
        raise LiteFSError(f"{data_dir}: there is no database {database}")
    for name in [database] if database else sorted(os.listdir(databases)):
        for directory in _log_directories(databases / name):
            yield from _images_in_directory(directory)


def _log_directories(database_dir: Path) -> list[Path]:
    # log/ is ours, ltx/ that of LiteFS 0.5.
    return [directory for directory in (database_dir / "log", database_dir / "ltx") if directory.is_dir()]


def _images_in_directory(directory: Path) -> Iterator[StoredImage]:
    for name in filter(_is_image_name, sorted(os.listdir(directory))):
        yield from _images_in_file(directory / name)


def _is_image_name(name: str) -> bool:
    return name.endswith(_IMAGE_SUFFIX) or segment_txid(name) is not None


def _images_in_file(path: Path) -> Iterator[StoredImage]:
    if path.suffix == _SEGMENT_SUFFIX:
        yield from _images_in_segment(path)
    else:
        yield StoredImage(series=path.parent, path=path, offset=0, size_bytes=path.stat().st_size)


def _images_in_segment(path: Path) -> Iterator[StoredImage]:
    with path.open("rb") as file:
        try:
            segment_id = decode_segment_header(file.read(SEGMENT_HEADER_SIZE))
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error
        offset = SEGMENT_HEADER_SIZE
        while True:
            file.seek(offset)
            record = _record_of(segment_id, file.read(RECORD_HEADER_SIZE))
            if record is None:
                break
            offset += RECORD_HEADER_SIZE
            yield StoredImage(
                series=path.parent, path=path, offset=offset, size_bytes=record.length, state=record.state
            )
            offset += padded(record.length)
        _refuse_records_beyond(file, path, offset, segment_id)


def _record_of(segment_id: int, data: bytes) -> RecordHeader | None:
    """The header of a record of this segment; None for anything else."""
    try:
        record = decode_record_header(data)
    except FormatError:
        return None
    return record if record.segment_id == segment_id else None


def _refuse_records_beyond(file: BinaryIO, path: Path, end: int, segment_id: int) -> None:
    """Tells the end of a log, behind which nothing of this segment may follow, from a damaged record header.

    Raises:
        FormatError: there are records of this segment behind `end`.
    """
    file.seek(end)
    rest = file.read()
    at = rest.find(RECORD_MAGIC)
    while at >= 0:
        if _record_of(segment_id, rest[at : at + RECORD_HEADER_SIZE]) is not None:
            raise FormatError(f"{path}@{end}: no valid record here, but one follows at {end + at}")
        at = rest.find(RECORD_MAGIC, at + 1)
