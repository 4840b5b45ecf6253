"""A whole database as framed bytes of a replication stream, or as the raw bytes of its file.

Strategy: the filesystem process freezes a position without stopping its writers, we read the pages of that
position from base file, log and what is copied aside, and tell it when we are done. A snapshot is made as
it is sent: its size does not matter to memory.

Rules of this file: it blocks on the disk and on the link. A snapshot that was opened is always closed, for
the writers copy pages aside until then.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from litefs.formats.checksum import EMPTY_DATABASE_CHECKSUM
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, NodeId, Pos, Txid
from litefs.formats.stream import CHUNK_TERMINATOR, LtxFrame, encode_chunks, encode_frame
from litefs.http.errors import ConflictError, DatabaseNotFoundError
from litefs.http.log_images import Block
from litefs.http.node_view import NodeView
from litefs.link.messages import CloseSnapshot, DatabaseInfo, OpenSnapshot, Rejected, SnapshotOpened
from litefs.storage.log_reader import LogGapError
from litefs.storage.snapshot import SnapshotReader

DROPPED_PAGE_SIZE = 4096
"""A dropped database has no page size, and an LTX header must have one."""


def framed_snapshot(node: NodeView, name: str, *, compress: bool) -> Generator[Block, None, None]:
    """Yields the current state of a database as one LTX frame.

    Args:
        node: whose filesystem process freezes the database.
        name: of a database of this node.
        compress: make the image an LZ4 frame.

    Raises:
        DatabaseNotFoundError: it is gone; nothing was yielded.
        ConflictError: it was replaced between two of our steps; nothing was yielded.
        LinkClosedError: the filesystem process is gone.
        CorruptStateError: what was read is not the state that it should be; the frame is not complete.
    """
    with _frozen(node, name, compress=compress) as (opened, reader):
        prefix = encode_frame(LtxFrame(name=name))
        for chunk in reader.ltx_chunks():
            yield Block(data=prefix + encode_chunks(chunk))
            prefix = b""
        pos = Pos(txid=Txid(opened.txid), checksum=Checksum(opened.checksum))
        yield Block(data=CHUNK_TERMINATOR, pos=pos, image_n=1)


def framed_drop(database: DatabaseInfo, node_id: int) -> Block:
    """Returns the snapshot of a dropped database: one LTX frame whose image has no pages."""
    header = LtxHeader(
        page_size=database.page_size or DROPPED_PAGE_SIZE,
        commit=0,
        min_txid=Txid(1),
        max_txid=Txid(database.txid),
        timestamp_ms=database.timestamp_ms,
        pre_apply=Checksum(0),
        node_id=NodeId(node_id),
    )
    image = encode_image(header, [], EMPTY_DATABASE_CHECKSUM)
    return Block(
        data=encode_frame(LtxFrame(name=database.name)) + encode_chunks(image) + CHUNK_TERMINATOR,
        pos=Pos(txid=Txid(database.txid), checksum=Checksum(EMPTY_DATABASE_CHECKSUM)),
        image_n=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A database file as it is at one position.

    Attributes:
        pos: the position.
        size_bytes: of the file.
        pages: the bytes of the file, in order; must be exhausted or closed.
    """

    pos: Pos
    size_bytes: int
    pages: Generator[bytes, None, None]


def open_export(node: NodeView, name: str) -> Export:
    """Freezes a database and returns what reads it.

    Raises:
        DatabaseNotFoundError: it is gone.
        ConflictError: it was replaced between two of our steps.
        LinkClosedError: the filesystem process is gone.
    """
    items = _raw_database(node, name)
    opened = next(items)
    assert isinstance(opened, SnapshotOpened)
    return Export(
        pos=Pos(txid=Txid(opened.txid), checksum=Checksum(opened.checksum)),
        size_bytes=opened.page_n * opened.page_size,
        pages=cast("Generator[bytes, None, None]", items),
    )


def _raw_database(node: NodeView, name: str) -> Generator[SnapshotOpened | bytes, None, None]:
    """Yields how the database was frozen, then its bytes: one generator, so that it cannot stay open."""
    with _frozen(node, name, compress=False) as (opened, reader):
        yield opened
        held = b""
        for _, pages in reader.pages():
            if held:
                yield held
            held = bytes(pages)
        # The checksum is compared behind the last page: a file that fails must not reach its announced length.
        yield held


@contextmanager
def _frozen(node: NodeView, name: str, *, compress: bool) -> Iterator[tuple[SnapshotOpened, SnapshotReader]]:
    answer = node.call(OpenSnapshot(name=name))
    if isinstance(answer, Rejected):
        raise DatabaseNotFoundError(answer.reason)
    assert isinstance(answer, SnapshotOpened), answer
    try:
        reader = _reader_of(node, answer, compress=compress)
        try:
            yield answer, reader
        finally:
            reader.close()
    finally:
        node.send(CloseSnapshot(snapshot_id=answer.snapshot_id))


def _reader_of(node: NodeView, opened: SnapshotOpened, *, compress: bool) -> SnapshotReader:
    log_dir = node.data_dir / "dbs" / opened.name / "log"
    try:
        return SnapshotReader(opened, log_dir, node.status().node_id, compress)
    except (FileNotFoundError, LogGapError) as error:
        raise ConflictError(f"{opened.name} was replaced while its snapshot was opened: {error}") from error
