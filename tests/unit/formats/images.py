"""The images that the encoders are to make and the decoders to read: one list for both."""

import random
from dataclasses import dataclass, replace

from litefs.formats.checksum import CHECKSUM_FLAG, EMPTY_DATABASE_CHECKSUM, database_checksum, lock_pgno, page_checksum
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, NodeId, Txid

LOCK = lock_pgno(512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image says, decoded."""

    name: str
    header: LtxHeader
    pages: list[tuple[int, bytes]]
    post_apply: int

    def encode(self) -> bytes:
        return encode_image(self.header, self.pages, self.post_apply)


def page(seed: int, page_size: int = 512) -> bytes:
    """Returns a page that LZ4 cannot shrink, the same for the same seed."""
    return random.Random(seed).randbytes(page_size)


def text_page(seed: int, page_size: int = 512) -> bytes:
    """Returns a page that LZ4 can shrink."""
    return (b"row %d of the table; " % seed * page_size)[:page_size]


def snapshot_checksum(pages: list[tuple[int, bytes]]) -> Checksum:
    return database_checksum(page_checksum(pgno, data) for pgno, data in pages)


def _images() -> list[Image]:
    transaction = LtxHeader(
        page_size=512,
        commit=9,
        min_txid=Txid(2),
        max_txid=Txid(2),
        timestamp_ms=1700000000000,
        pre_apply=Checksum(CHECKSUM_FLAG | 77),
        node_id=NodeId(0x1234),
    )
    snapshot = replace(transaction, min_txid=Txid(1), pre_apply=Checksum(0), commit=3)
    whole = [(1, text_page(1)), (2, page(2)), (3, bytes(512))]
    sparse = [(1, text_page(1)), (4, page(4)), (9, text_page(9))]
    lock = replace(transaction, commit=LOCK + 5)
    big = replace(transaction, page_size=65536, commit=3)
    wal = replace(transaction, wal_offset=32, wal_size=1608, wal_salt1=7, wal_salt2=8)
    post = CHECKSUM_FLAG | 78
    plain = [
        Image(name="transaction", header=transaction, pages=sparse, post_apply=post),
        Image(name="from-wal", header=wal, pages=sparse[:1], post_apply=post),
        Image(name="snapshot", header=snapshot, pages=whole, post_apply=snapshot_checksum(whole)),
        Image(name="no-pages", header=transaction, pages=[], post_apply=post),
        Image(name="drop", header=replace(transaction, commit=0), pages=[], post_apply=EMPTY_DATABASE_CHECKSUM),
        Image(
            name="dropped-snapshot",
            header=replace(snapshot, commit=0, max_txid=Txid(5)),
            pages=[],
            post_apply=EMPTY_DATABASE_CHECKSUM,
        ),
        Image(
            name="around-lock-page",
            header=lock,
            pages=[(LOCK - 1, page(1)), (LOCK + 1, page(2)), (LOCK + 5, page(3))],
            post_apply=post,
        ),
        Image(name="page-65536", header=big, pages=[(2, page(1, 65536)), (3, text_page(2, 65536))], post_apply=post),
    ]
    lz4 = [replace(image, name=f"{image.name}-lz4", header=replace(image.header, flags=FLAG_LZ4)) for image in plain]
    return plain + lz4


IMAGES = _images()
SMALL = [image for image in IMAGES if image.header.page_size == 512]


def named(name: str) -> Image:
    """Returns the image of that name."""
    return next(image for image in IMAGES if image.name == name)
