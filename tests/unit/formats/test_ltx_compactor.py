from collections.abc import Iterator
from dataclasses import replace

import pytest

from litefs.errors import ChecksumError, FormatError, NeedMoreData, PositionMismatchError
from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, database_checksum, page_checksums
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_compactor import compact
from litefs.formats.ltx_decoder import decode_image
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, NodeId, Txid
from tests.unit.formats.images import page


class History:
    """A database of 512-byte pages, and the images of the transactions that made it."""

    def __init__(self) -> None:
        self.content = b""
        self.images: list[bytes] = []
        self.before: list[bytes] = []

    def commit(self, commit: int, flags: int = 0, **pages: int) -> "History":
        """Commits a transaction; `pages` are p1=seed, p2=seed and so on."""
        txid = len(self.images) + 1
        header = LtxHeader(
            flags=flags,
            page_size=512,
            commit=commit,
            min_txid=Txid(txid),
            max_txid=Txid(txid),
            timestamp_ms=1000 + txid,
            pre_apply=self.checksum if self.images else Checksum(0),
            node_id=NodeId(txid),
        )
        written = [(int(name[1:]), page(seed)) for name, seed in pages.items()]
        self.before.append(self.content)
        self.content = apply(self.content, commit, written)
        self.images.append(encode_image(header, written, self.checksum))
        return self

    @property
    def checksum(self) -> Checksum:
        return database_checksum(page_checksums(self.content, 512, 1))

    def compacted(self, first: int, last: int, flags: int = 0) -> bytes:
        """Compacts the images of transactions `first` to `last`."""
        return b"".join(compact([[image] for image in self.images[first - 1 : last]], flags))


def apply(content: bytes, commit: int, pages: list[tuple[int, bytes]]) -> bytes:
    buffer = bytearray(content[: commit * 512]).ljust(commit * 512, b"\0")
    for pgno, data in pages:
        buffer[512 * (pgno - 1) : 512 * pgno] = data
    return bytes(buffer)


@pytest.fixture
def history() -> History:
    """Growth, overwriting, shrinking, growth again over what was cut off, a page that nobody wrote."""
    made = History()
    made.commit(3, p1=1, p2=2, p3=3)
    made.commit(6, flags=FLAG_LZ4, p1=4, p4=5, p5=6, p6=7)
    made.commit(6, p2=14)
    made.commit(4, p1=8)
    made.commit(7, p1=9, p6=10)
    made.commit(7, p2=11)
    made.commit(0)
    made.commit(2, p1=12, p2=13)
    return made


@pytest.mark.parametrize("flags", [0, FLAG_LZ4])
def test_every_run_leads_where_its_images_lead(history: History, flags: int) -> None:
    after = [*history.before[1:], history.content]
    for first in range(1, 9):
        for last in range(first, 9):
            header, pages, trailer = decode_image(history.compacted(first, last, flags))
            content = apply(history.before[first - 1], header.commit, pages)
            assert content == after[last - 1], (first, last)
            assert trailer.post_apply == database_checksum(page_checksums(content, 512, 1))
            assert header.flags == flags


def test_the_header_is_that_of_the_run(history: History) -> None:
    header = decode_image(history.compacted(2, 6))[0]
    first, last = decode_image(history.images[1])[0], decode_image(history.images[5])[0]
    merged = replace(first, flags=0, max_txid=Txid(6), commit=7, timestamp_ms=last.timestamp_ms)
    assert header == replace(merged, node_id=NodeId(0))


def test_the_last_image_that_has_a_page_gives_it(history: History) -> None:
    pages = dict(decode_image(history.compacted(1, 2))[1])
    assert pages == {1: page(4), 2: page(2), 3: page(3), 4: page(5), 5: page(6), 6: page(7)}


def test_a_page_lost_and_regained_without_a_write_is_zero(history: History) -> None:
    pages = dict(decode_image(history.compacted(4, 5))[1])
    assert pages == {1: page(9), 5: bytes(512), 6: page(10), 7: bytes(512)}
    # Page 5 of the first image did not outlive the shrinking after the next one.
    assert dict(decode_image(history.compacted(2, 5))[1])[5] == bytes(512)


def test_a_drop_leaves_no_page(history: History) -> None:
    header, pages, trailer = decode_image(history.compacted(1, 7))
    assert (header.commit, pages, trailer.post_apply) == (0, [], EMPTY_DATABASE_CHECKSUM)


def test_compacting_twice_is_compacting_once(history: History) -> None:
    halves = [[history.compacted(2, 3)], [history.compacted(4, 6)]]
    assert decode_image(b"".join(compact(halves))) == decode_image(history.compacted(2, 6))


def test_one_image_comes_back_without_its_node(history: History) -> None:
    header, pages, trailer = decode_image(history.images[1])
    assert decode_image(history.compacted(2, 2))[1:] == (
        pages,
        decode_image(encode_image(replace(header, flags=0, node_id=NodeId(0)), pages, trailer.post_apply))[2],
    )


def test_refuses_a_run_with_a_gap_or_out_of_order(history: History) -> None:
    for run in ([0, 2], [1, 0], [1, 1]):
        with pytest.raises(PositionMismatchError):
            list(compact([[history.images[index]] for index in run]))


def test_refuses_images_of_two_branches(history: History) -> None:
    header, pages, trailer = decode_image(history.images[2])
    other = encode_image(replace(header, pre_apply=Checksum(CHECKSUM_FLAG | 1)), pages, trailer.post_apply)
    with pytest.raises(PositionMismatchError):
        list(compact([[history.images[1]], [other]]))


def test_refuses_images_of_two_page_sizes(history: History) -> None:
    header = replace(decode_image(history.images[2])[0], page_size=1024)
    with pytest.raises(FormatError):
        list(compact([[history.images[1]], [encode_image(header, [], CHECKSUM_FLAG)]]))


def test_refuses_no_images() -> None:
    with pytest.raises(FormatError):
        list(compact([]))


def test_refuses_an_image_that_is_cut_short_or_goes_on(history: History) -> None:
    good = [history.images[1]]
    image = history.images[2]
    for bad in ([], [image[:50]], [image[:-1]], [image, b"x"], [image + b"x"], [image[:200], image[200:-16]]):
        for run in ([good, bad], [bad]):
            with pytest.raises((FormatError, NeedMoreData)):
                list(compact(run))


def test_refuses_a_damaged_image(history: History) -> None:
    damaged = bytearray(history.images[2])
    damaged[300] ^= 1
    with pytest.raises(ChecksumError):
        list(compact([[history.images[1]], [bytes(damaged)]]))


def test_reads_no_further_than_the_merge_needs() -> None:
    history = History().commit(40, **{f"p{n}": n for n in range(1, 41)})
    history.commit(40, **{f"p{n}": n + 1 for n in range(1, 41)})
    fed = [0, 0]

    def pieces(index: int) -> Iterator[bytes]:
        image = history.images[index]
        for offset in range(0, len(image), 512):
            fed[index] += 1
            yield image[offset : offset + 512]

    merged = compact([pieces(0), pieces(1)])
    next(merged)
    assert fed == [1, 1]
    for _ in range(20):
        next(merged)
    assert max(fed) < 25
    list(merged)
    assert fed == [len(image) // 512 + 1 for image in history.images]
