"""From changed pages to an LTX image in the log: what both journal modes have in common.

Strategy: a commit path names the pages it touched and how to read them; pages whose checksum is what
it was before are left out. Few pages are encoded at one go; many are streamed into the log, so a
transaction may be larger than memory, and others may run every `YIELD_PAGES` pages.

The rolling checksum: new = old XOR (page before) XOR (page after) for each changed page, where a page
that did not exist or is cut off counts as 0. The lock page is in no image and counts as 0.
"""

import errno
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litefs.formats.checksum import CHECKSUM_FLAG, lock_pgno, page_checksum, page_checksums
from litefs.formats.ltx import FLAG_LZ4, HEADER_SIZE, TRAILER_SIZE, LtxHeader
from litefs.formats.ltx_encoder import LtxEncoder, encode_image
from litefs.formats.position import Checksum, NodeId, Txid
from litefs.storage.log import Log, LogRecord
from litefs.storage.log_format import RecordState
from litefs.storage.state import PlannedState
from litefs.storage.steps import Steps

SMALL_PAGES_MAX = 64
"""Up to here an image is made in memory at one go (64 pages of 4 KiB: some 0.3 ms)."""

YIELD_PAGES = 128
"""Between two chances for others: about 1 ms of work."""

PLAIN_PAGES_MAX = 4
"""Images of so few pages are not compressed: LZ4 would cost a sixth of a small commit (10 of 60 us, 2026-11)."""

MASK = CHECKSUM_FLAG - 1

LOCK_PAGE_AT_LEAST = lock_pgno(65536)
"""The lowest number that a lock page has, with the largest pages: smaller databases have none."""


@dataclass(slots=True, kw_only=True)
class Before:
    """The state a transaction starts from, and how its image is made."""

    txid: int
    checksum: int
    page_n: int
    sums: "array[int]"
    page_size: int
    node_id: int
    compress: bool


@dataclass(slots=True, kw_only=True)
class Change:
    """Pages touched, ascending, and how to read them; `commit` is the database's size in pages afterwards.

    `wal` says where in a WAL the transaction lies, as LTX headers carry it: offset, size, salt1, salt2.
    """

    pgnos: Sequence[int]
    read: Callable[[int], bytes]
    commit: int
    wal: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A transaction whose image is in the log.

    `record` is None if there is no image: nothing changed, or the page size did, and `planned` is the new state.
    """

    txid: int
    post_apply: int
    commit: int
    timestamp_ms: int
    sums: list[tuple[int, int]]
    record: LogRecord | None
    group: int = 0
    planned: PlannedState | None = None


def touched(before: Before, pgnos: Sequence[int], commit: int) -> Sequence[int]:
    """Returns the pages to look at: those written, within the new size, and every page the database grew by."""
    grown = commit - before.page_n
    if not grown and commit < LOCK_PAGE_AT_LEAST and (not pgnos or pgnos[-1] <= commit):
        return pgnos
    lock = lock_pgno(before.page_size)
    inside = [pgno for pgno in pgnos if pgno <= commit and pgno != lock]
    if grown <= 0 or len(inside) - _count_below(inside, before.page_n) == grown - (before.page_n < lock <= commit):
        return inside
    missing = set(range(before.page_n + 1, commit + 1)).difference(inside)
    missing.discard(lock)
    return sorted([*inside, *missing])


def _count_below(pgnos: Sequence[int], page_n: int) -> int:
    count = len(pgnos)
    while count and pgnos[count - 1] > page_n:
        count -= 1
    return count


def checksum_without_tail(before: Before, commit: int) -> int:
    """Returns the checksum (without flag) of the pages that a shrink to `commit` leaves."""
    if not commit:
        return 0  # a drop comes in an unlink, which a walk over all pages would hold up
    running = before.checksum & MASK
    if commit < before.page_n:
        for checksum in before.sums[commit : before.page_n]:
            running ^= checksum & MASK
    return running


def image_bytes_max(page_n: int, page_size: int) -> int:
    """Returns what an image of `page_n` pages takes at most, in bytes. LZ4 adds less than 64 to what it cannot pack."""
    return HEADER_SIZE + page_n * (page_size + 64) + TRAILER_SIZE


def measure(before: Before, change: Change) -> Steps[Prepared]:
    """Computes what a change does to the checksum, without making an image: for replicas, that have it already."""
    running = checksum_without_tail(before, change.commit)
    sums: list[tuple[int, int]] = []
    for count, pgno in enumerate(touched(before, change.pgnos, change.commit), 1):
        new = page_checksum(pgno, change.read(pgno))
        old = before.sums[pgno - 1] if pgno <= before.page_n else 0
        if new != old:
            running ^= (old ^ new) & MASK
            sums.append((pgno, new))
        if count % YIELD_PAGES == 0:
            yield None
    return Prepared(
        txid=before.txid,
        post_apply=running | CHECKSUM_FLAG,
        commit=change.commit,
        timestamp_ms=0,
        sums=sums,
        record=None,
    )


def prepare(log: Log, before: Before, change: Change, group: int = 0) -> Steps[Prepared]:
    """Puts the image of a change into the log, not yet synced.

    Returns:
        The prepared transaction; its `record` is None if the change leaves every page as it was.

    Raises:
        OSError: the log could not take the image and is as it was.
    """
    grown = max(0, change.commit - before.page_n)
    if len(change.pgnos) <= SMALL_PAGES_MAX and grown <= SMALL_PAGES_MAX:
        yield from log.make_room(image_bytes_max(len(change.pgnos) + grown, before.page_size))
        if len(before.sums) != before.page_n:
            raise OSError(errno.EBUSY, "the database was dropped while room was made for the image")
        return prepare_small(log, before, change, group)
    pgnos = touched(before, change.pgnos, change.commit)
    yield from log.make_room(_size_hint(before, pgnos))
    return (yield from _prepare_large(log, before, change, pgnos, group))


def prepare_small(log: Log, before: Before, change: Change, group: int = 0) -> Prepared:
    """The same at one go, for few pages."""
    running = checksum_without_tail(before, change.commit)
    sums: list[tuple[int, int]] = []
    pages: list[tuple[int, bytes]] = []
    read, page_n, old_sums = change.read, before.page_n, before.sums
    for pgno in touched(before, change.pgnos, change.commit):
        page = read(pgno)
        new = page_checksum(pgno, page)
        old = old_sums[pgno - 1] if pgno <= page_n else 0
        if new != old:
            running ^= (old ^ new) & MASK
            sums.append((pgno, new))
            pages.append((pgno, page))
    post_apply = running | CHECKSUM_FLAG
    if not pages and change.commit == page_n:
        return _unchanged(before)
    header = _header(before, change, compress=before.compress and len(pages) > PLAIN_PAGES_MAX)
    image = encode_image(header, pages, Checksum(post_apply))
    state = RecordState.PREPARED if group else RecordState.LIVE
    record = log.append(image, header.min_txid, header.max_txid, post_apply, group=group, state=state)
    return _prepared(header, post_apply, change.commit, sums, record, group)


def _prepare_large(log: Log, before: Before, change: Change, pgnos: Sequence[int], group: int) -> Steps[Prepared]:
    running = checksum_without_tail(before, change.commit)
    sums: list[tuple[int, int]] = []
    header = _header(before, change, compress=before.compress)
    encoder = LtxEncoder(header)
    stream = log.begin_stream(header.min_txid, header.max_txid, _size_hint(before, pgnos))
    try:
        parts = [encoder.header_bytes()]
        for start in range(0, len(pgnos), YIELD_PAGES):
            run = pgnos[start : start + YIELD_PAGES]
            changed, difference = _encode_run(before, change, run, encoder, parts)
            running ^= difference
            sums += changed
            stream.write(b"".join(parts))
            parts.clear()
            yield None
        post_apply = running | CHECKSUM_FLAG
        if not sums and change.commit == before.page_n:
            return _unchanged(before)
        parts.append(encoder.finish(Checksum(post_apply)))
        stream.write(b"".join(parts))
        record = stream.finish(post_apply, group=group, state=RecordState.PREPARED if group else RecordState.LIVE)
    finally:
        stream.give_up()
    return _prepared(header, post_apply, change.commit, sums, record, group)


def _size_hint(before: Before, pgnos: Sequence[int]) -> int:
    """Returns about how large the image of many pages will be, in bytes."""
    plain = len(pgnos) * (before.page_size + 4)
    return plain // 2 if before.compress else plain


def _encode_run(
    before: Before, change: Change, run: Sequence[int], encoder: LtxEncoder, parts: list[bytes]
) -> tuple[list[tuple[int, int]], int]:
    """Encodes those of some pages that changed, contiguous ones at one go.

    Returns:
        ((pgno, checksum) of each changed page, XOR of their old and new checksums).
    """
    pages = [change.read(pgno) for pgno in run]
    page_n, old_sums = before.page_n, before.sums
    is_contiguous = run[-1] - run[0] == len(run) - 1
    joined = b"".join(pages) if is_contiguous else b""
    if is_contiguous:
        new_sums = page_checksums(joined, before.page_size, run[0])
    else:
        new_sums = [page_checksum(pgno, page) for pgno, page in zip(run, pages, strict=True)]
    difference = 0
    changed: list[tuple[int, int]] = []
    for pgno, new in zip(run, new_sums, strict=True):
        old = old_sums[pgno - 1] if pgno <= page_n else 0
        if new != old:
            difference ^= old ^ new
            changed.append((pgno, new))
    if is_contiguous and len(changed) == len(run):
        parts.append(encoder.pages(run[0], joined))
    else:
        numbers = {pgno for pgno, _ in changed}
        parts.extend(encoder.page(pgno, page) for pgno, page in zip(run, pages, strict=True) if pgno in numbers)
    return changed, difference & MASK


def _header(before: Before, change: Change, *, compress: bool) -> LtxHeader:
    txid = before.txid + 1
    wal_offset, wal_size, wal_salt1, wal_salt2 = change.wal
    return LtxHeader(
        flags=FLAG_LZ4 if compress else 0,
        page_size=before.page_size,
        commit=change.commit,
        min_txid=Txid(txid),
        max_txid=Txid(txid),
        timestamp_ms=time.time_ns() // 1_000_000,
        pre_apply=Checksum(before.checksum if before.txid else 0),
        wal_offset=wal_offset,
        wal_size=wal_size,
        wal_salt1=wal_salt1,
        wal_salt2=wal_salt2,
        node_id=NodeId(before.node_id),
    )


def _prepared(
    header: LtxHeader, post_apply: int, commit: int, sums: list[tuple[int, int]], record: LogRecord, group: int
) -> Prepared:
    return Prepared(
        txid=header.max_txid,
        post_apply=post_apply,
        commit=commit,
        timestamp_ms=header.timestamp_ms,
        sums=sums,
        record=record,
        group=group,
    )


def _unchanged(before: Before) -> Prepared:
    return Prepared(
        txid=before.txid, post_apply=before.checksum, commit=before.page_n, timestamp_ms=0, sums=[], record=None
    )
