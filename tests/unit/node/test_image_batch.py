"""Images put together: the same pages as one after the other, and never what must be applied by itself."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksum
from litefs.formats.ltx import LtxHeader
from litefs.formats.position import Checksum, Txid
from litefs.node.image import Image, image_of
from litefs.node.image_batch import BATCH_BYTES, ImageBatch
from litefs.storage.expected import AT_ONCE_MAX

PAGE_SIZE = 512


class History:
    """A database whose every state is known, and the images from one to the next."""

    def __init__(self, page_n: int = 4) -> None:
        """Begins at transaction 1."""
        self.state = [page(pgno, 0) for pgno in range(1, page_n + 1)]
        self.txid = 1

    @property
    def checksum(self) -> int:
        return database_checksum(page_checksum(pgno, data) for pgno, data in enumerate(self.state, 1)) | CHECKSUM_FLAG

    def change(self, pages: dict[int, bytes], page_n: int | None = None) -> Image:
        """Returns the image of the next transaction: these pages new, and the database so long afterwards."""
        before = self.checksum
        size = page_n if page_n is not None else max([len(self.state), *pages])
        self.state = self.state[:size] + [b""] * (size - len(self.state))
        for pgno, data in pages.items():
            self.state[pgno - 1] = data
        self.txid += 1
        header = LtxHeader(
            page_size=PAGE_SIZE,
            commit=size,
            min_txid=Txid(self.txid),
            max_txid=Txid(self.txid),
            timestamp_ms=self.txid * 10,
            pre_apply=Checksum(before),
        )
        return image_of(header, self.checksum, sorted(pages.items()))


def page(pgno: int, version: int, *, wal: bool = False) -> bytes:
    data = bytearray(random.Random(pgno << 32 | version).randbytes(PAGE_SIZE))
    data[18:20] = b"\2\2" if wal else b"\1\1"
    return bytes(data)


def batch_of(images: Sequence[Image], *, in_wal_mode: bool = False) -> tuple[ImageBatch, int]:
    """Returns a batch that took what it would, and how many images that were."""
    batch = ImageBatch(images[0], in_wal_mode=in_wal_mode)
    count = 1
    while count < len(images) and batch.take(images[count]):
        count += 1
    return batch, count


def applied(before: list[bytes], image: Image) -> list[bytes]:
    after = before[: image.header.commit] + [b""] * (image.header.commit - len(before))
    for pgno, data in image.pages():
        after[pgno - 1] = bytes(data)
    return after


def test_it_leads_to_the_state_that_the_images_lead_to_one_by_one() -> None:
    for seed in range(100):
        choice = random.Random(seed)
        history = History()
        before, pre_apply = list(history.state), history.checksum
        images = []
        for version in range(1, 30):
            page_n = max(2, len(history.state) + choice.choice([-3, -1, 0, 0, 0, 1, 4]))
            grown = range(len(history.state) + 1, page_n + 1)
            touched = {*choice.sample(range(1, page_n + 1), choice.randint(1, 2)), *grown}
            images.append(history.change({pgno: page(pgno, version) for pgno in touched}, page_n))
        batch, count = batch_of(images)
        assert count == len(images), f"seed {seed}"
        image = batch.image()
        pgnos = [pgno for pgno, _ in image.pages()]
        assert pgnos == sorted(set(pgnos))
        assert pgnos[-1] <= image.header.commit == len(history.state)
        assert applied(before, image) == history.state, f"seed {seed}"
        assert (image.header.min_txid, image.header.max_txid) == (2, 30)
        assert (image.header.pre_apply, image.post_apply) == (pre_apply, history.checksum)
        assert (batch.since_ms, batch.last_txid) == (20, 30)


def test_one_image_stays_what_it_is() -> None:
    image = History().change({2: page(2, 1)})
    batch, _ = batch_of([image])
    assert batch.image() is image


def test_page_one_of_the_newest_image_that_has_it_tells_the_mode() -> None:
    history = History()
    images = [history.change({pgno: page(pgno, version)}) for version, pgno in enumerate((1, 2, 1, 3), 1)]
    batch, count = batch_of(images)
    assert count == 4
    assert batch.image().first_page == page(1, 3)[:100]


def test_two_images_that_end_in_the_same_state_do_not_come_together() -> None:
    history = History()
    there, back = {2: page(2, 1)}, {2: page(2, 0)}
    images = [history.change(pages) for pages in (there, back, there, back)]
    assert [batch_of(images[at:])[1] for at in range(4)] == [1, 1, 1, 1]
    images = [history.change(pages) for pages in ({3: page(3, 1)}, there, back, there)]
    assert batch_of(images)[1] == 2, "the third one ends where the first one ends"


def test_a_change_of_mode_is_applied_by_itself() -> None:
    history = History()
    images = [
        history.change({2: page(2, 1)}),
        history.change({1: page(1, 2, wal=True)}),
        history.change({1: page(1, 3, wal=True)}),
        history.change({1: page(1, 4)}),
    ]
    assert [batch_of(images[at:], in_wal_mode=False)[1] for at in (0, 1)] == [1, 1]
    assert [batch_of(images[at:], in_wal_mode=True)[1] for at in (0, 2, 3)] == [3, 1, 1]


def test_a_drop_is_applied_by_itself() -> None:
    history = History()
    images = [history.change({2: page(2, 1)}), history.change({}, 0), history.change({1: page(1, 2)})]
    assert [batch_of(images[at:])[1] for at in range(3)] == [1, 1, 1]


def test_a_gap_ends_a_batch() -> None:
    history = History()
    images = [history.change({2: page(2, version)}) for version in range(1, 5)]
    assert batch_of([images[0], images[1], images[3]])[1] == 2
    assert batch_of([images[0], images[0]])[1] == 1


@pytest.mark.parametrize(("page_n", "expected"), [(1, AT_ONCE_MAX), (900, BATCH_BYTES // (900 * PAGE_SIZE))])
def test_a_batch_is_bounded(page_n: int, expected: int) -> None:
    pages = [(pgno, page(pgno, 1)) for pgno in range(2, page_n + 2)]
    images = [
        image_of(
            LtxHeader(
                page_size=PAGE_SIZE,
                commit=page_n + 1,
                min_txid=Txid(txid),
                max_txid=Txid(txid),
                timestamp_ms=1,
                pre_apply=Checksum(CHECKSUM_FLAG | txid),
            ),
            CHECKSUM_FLAG | txid + 1,
            pages,
        )
        for txid in range(2, AT_ONCE_MAX + 10)
    ]
    assert batch_of(images)[1] == expected


def test_an_image_that_memory_is_too_small_for_is_applied_by_itself() -> None:
    history = History()
    images = [history.change({2: page(2, version)}) for version in range(1, 5)]
    images[2] = replace(images[2], size_bytes=0)
    assert [batch_of(images[at:])[1] for at in (0, 2)] == [2, 1]
