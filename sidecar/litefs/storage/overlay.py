"""Pages laid over the base file: the uncommitted ones of a transaction, or committed ones on their way.

Strategy: a dictionary of pages up to a bound of memory; past it, pages go to a sparse file without a
name, page `pgno` at its place in the database, and the dictionary keeps `None` for them. Reading and
writing stay O(1), and a transaction may be larger than memory.

Invariants:
    1. `base_limit` is the size in bytes up to which the base shows through; it only shrinks (truncate).
    2. A page is in the overlay iff its number is a key, whether in memory or spilled.
"""

from pathlib import Path

from litefs.storage.disk import Buffer, Disk

UNLIMITED = 1 << 62


class Overlay:
    """Whole pages by number. `generation` changes with every modification."""

    __slots__ = (
        "_directory",
        "_disk",
        "_fd",
        "_memory_bytes",
        "_room_bytes",
        "base_limit",
        "generation",
        "page_size",
        "pages",
    )

    def __init__(self, disk: Disk, directory: Path, page_size: int, memory_bytes: int) -> None:
        """Args: page_size: bytes; memory_bytes: pages kept in memory before the rest spills."""
        self._disk = disk
        self._directory = directory
        self._fd = -1
        self._memory_bytes = memory_bytes
        self._room_bytes = memory_bytes
        self.page_size = page_size
        self.pages: dict[int, bytes | None] = {}
        self.base_limit = UNLIMITED
        self.generation = 0

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def is_clean(self) -> bool:
        """Nothing was written and nothing cut off."""
        return not self.pages and self.base_limit == UNLIMITED

    def get(self, pgno: int) -> bytes | None:
        """Returns the page, or None if it is not in the overlay."""
        page = self.pages.get(pgno)
        if page is None and self._fd >= 0 and pgno in self.pages:
            return self._disk.read("overlay.read", self._fd, self.page_size, (pgno - 1) * self.page_size)
        return page

    def put(self, pgno: int, page: bytes) -> None:
        """Lays a whole page.

        Raises:
            OSError: memory is used up and the spill file cannot take the page (ENOSPC); nothing changed.
        """
        pages = self.pages
        if pages.get(pgno) is not None:
            pages[pgno] = page
        elif self._room_bytes >= self.page_size and not (self._fd >= 0 and pgno in pages):
            self._room_bytes -= self.page_size
            pages[pgno] = page
        else:
            self._spill(pgno, page)
        self.generation += 1

    def truncate(self, size: int) -> None:
        """Cuts the database at `size` bytes: pages behind it go, and the base shows no further."""
        keep = -(-size // self.page_size)
        for pgno in [pgno for pgno in self.pages if pgno > keep]:
            if self.pages.pop(pgno) is not None:
                self._room_bytes += self.page_size
        self.base_limit = min(self.base_limit, size)
        self.generation += 1

    def close(self) -> None:
        """Drops the content and the spill file."""
        if self._fd >= 0:
            self._disk.close_unnamed("overlay.close", self._fd)
            self._fd = -1
        self.pages = {}
        self.base_limit = UNLIMITED
        self._room_bytes = self._memory_bytes
        self.generation += 1

    def _spill(self, pgno: int, page: Buffer) -> None:
        if self._fd < 0:
            self._fd = self._disk.open_unnamed("overlay.spill", self._directory)
        self._disk.write("overlay.spill", self._fd, page, (pgno - 1) * self.page_size)
        self.pages[pgno] = None
