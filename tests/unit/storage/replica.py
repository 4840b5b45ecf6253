"""A replica without a mount: pages in memory, to which the images of a primary's log are applied one by one."""

from litefs.formats.checksum import CHECKSUM_FLAG, database_checksum, page_checksum
from litefs.formats.ltx_decoder import decode_image
from litefs.storage.database import Database
from litefs.storage.log_reader import LogReader


class ModelReplica:
    """Follows one database. Every image must follow the last and give the checksum that it states."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.txid = 0
        self.checksum = 0
        self.pages: list[bytes] = []

    @property
    def content(self) -> bytes:
        return b"".join(self.pages)

    def catch_up(self) -> None:
        """Applies all images up to the primary's position."""
        if self.txid == self._database.txid:
            return
        reader = LogReader(self._database.log.directory)
        try:
            for ref in list(reader.images(self.txid + 1, self._database.txid)):
                self._apply(reader.read(ref, 0, ref.size))
        finally:
            reader.close()
        assert self.checksum == self._database.checksum

    def _apply(self, image: bytes) -> None:
        header, pages, trailer = decode_image(image)
        assert (header.min_txid, header.pre_apply) == (self.txid + 1, self.checksum)
        size = header.page_size
        after = self.pages[: header.commit] + [bytes(size)] * (header.commit - len(self.pages))
        for pgno, page in pages:
            after[pgno - 1] = page
        sums = (page_checksum(pgno, page) for pgno, page in enumerate(after, 1))
        checksum = database_checksum(sums) | CHECKSUM_FLAG
        assert checksum == trailer.post_apply, f"image {header.min_txid} does not give what it states"
        self.txid, self.checksum, self.pages = header.max_txid, checksum, after
