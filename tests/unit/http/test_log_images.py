"""How images of the log are put together into blocks."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litefs.errors import CorruptStateError, PositionMismatchError
from litefs.formats.position import Pos, Txid
from litefs.http.log_images import BLOCK_BYTES, Block, framed_images
from litefs.storage.log_reader import ImageRef, LogGapError, LogReader
from tests.unit.http.fake_node import FakeDatabase, FakeNode

FRAMING_BYTES = 64
"""Frame head, chunk lengths and end of an image that fits a block: generous."""


@pytest.fixture
def database(node: FakeNode) -> FakeDatabase:
    return node.create("a.db", page_size=4096)


def _blocks(database: FakeDatabase, follower: Pos, log: LogReader | None = None) -> Iterator[Block]:
    with closing(log or LogReader(database.directory / "log")) as reader:
        yield from framed_images(reader, database.name, follower, Txid(database.txid), verify=True)


def test_small_images_share_blocks_of_bounded_size(node: FakeNode, database: FakeDatabase) -> None:
    first = node.commit("a.db", 1)
    for _ in range(300):
        node.commit("a.db", 1)
    blocks = list(_blocks(database, first))
    assert sum(block.image_n for block in blocks) == 300
    assert len(blocks) > 3
    assert all(len(block.data) <= BLOCK_BYTES + block.image_n * FRAMING_BYTES for block in blocks)
    assert all(block.pos is not None for block in blocks)
    assert blocks[-1].pos == database.pos


def test_a_large_image_comes_in_blocks_and_counts_when_it_is_whole(node: FakeNode, database: FakeDatabase) -> None:
    first = node.commit("a.db", 1)
    node.commit("a.db", *range(1, 200))
    blocks = list(_blocks(database, first))
    assert [block.image_n for block in blocks] == [0] * (len(blocks) - 1) + [1]
    assert [block.pos for block in blocks] == [None] * (len(blocks) - 1) + [database.pos]
    assert all(len(block.data) <= BLOCK_BYTES + FRAMING_BYTES for block in blocks)


def test_what_precedes_a_gap_is_sent_before_the_gap_is_reported(node: FakeNode, database: FakeDatabase) -> None:
    first = node.commit("a.db", 1)
    second = node.commit("a.db", 1)
    database.txid += 1  # as a replacement does, which has no image
    blocks = _blocks(database, first)
    assert next(blocks).pos == second
    with pytest.raises(LogGapError):
        next(blocks)


def test_an_image_of_another_branch_is_not_sent(node: FakeNode, database: FakeDatabase) -> None:
    first = node.commit("a.db", 1)
    node.commit("a.db", 1)
    with pytest.raises(PositionMismatchError):
        next(_blocks(database, Pos(txid=first.txid, checksum=type(first.checksum)(first.checksum ^ 1))))


class VanishingLog(LogReader):
    """A log whose segment is gone at the third read of a body."""

    def __init__(self, log_dir: Path) -> None:
        super().__init__(log_dir)
        self.reads_left = 3

    def read(self, ref: ImageRef, start: int, length: int) -> bytes:
        if start:
            self.reads_left -= 1
            if not self.reads_left:
                raise LogGapError("segment is gone")
        return super().read(ref, start, length)


def test_an_image_that_ends_half_sent_is_not_taken_for_a_gap(node: FakeNode, database: FakeDatabase) -> None:
    first = node.commit("a.db", 1)
    node.commit("a.db", *range(1, 300))
    log = VanishingLog(database.directory / "log")
    with closing(log), pytest.raises(CorruptStateError) as caught:
        list(framed_images(log, "a.db", first, Txid(database.txid), verify=False))
    assert not isinstance(caught.value, LogGapError)
