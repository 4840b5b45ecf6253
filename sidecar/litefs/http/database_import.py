"""The body of `POST /import`: an SQLite database file that becomes the whole state of a database.

Strategy: the file is taken as it comes, in runs of whole pages, into a state beside the present one, which it
replaces in one step when it is complete. Until then nothing refers to it.

As LiteFS 0.5 does, the change counter (bytes 24–27) and the schema cookie (40–43) of page 1 are set to zero: a
Go replica that follows us puts the new pages into the same inode, and these two fields are all by which its
open connections notice. Ours do not need it, for their inode is dead: docs/decisions/040-import-zeroes-two-counters.md.

Source: LiteFS 0.5.14, POST /import; sqlite.org/fileformat2.html, section 1.3.7 (when the page count counts).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor

from litefs.errors import FormatError
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, DATABASE_MAGIC, SqliteHeader
from litefs.http.errors import UnusableBodyError
from litefs.http.node_view import Replacement

RUN_BYTES = 1 << 20
"""Per write to disk. Larger ones are no faster; two of them are in memory."""

_ZEROED_FIELDS = (slice(24, 28), slice(40, 44))

OpenReplacement = Callable[[int, int], Replacement]
"""Opens a new state of (page size in bytes, pages)."""


class DatabaseImport:
    """Cuts one database file into runs of pages and hands them to a replacement, on a worker thread."""

    def __init__(self, open_replacement: OpenReplacement, executor: Executor, content_length: int | None) -> None:
        """Args: content_length: size of the body in bytes, if the request said so."""
        self._open_replacement = open_replacement
        self._executor = executor
        self._content_length = content_length
        self._buffer = bytearray()
        self._pgno = 1
        self._page_size = 0
        self._page_n = 0

    async def run(self, chunks: AsyncIterator[bytes]) -> None:
        """Reads the whole body and replaces the database by it. Bytes behind the last page are ignored.

        Raises:
            UnusableBodyError: the body is no SQLite database, or cut short; nothing was replaced.
            NotPrimaryError: this node may not change databases; nothing was replaced.
        """
        loop = asyncio.get_running_loop()
        header = await self._read_header(chunks)
        self._page_size, self._page_n = header.page_size, self._page_n_of(header)
        for field in _ZEROED_FIELDS:
            self._buffer[field] = bytes(4)
        replacement = await loop.run_in_executor(self._executor, self._open_replacement, self._page_size, self._page_n)
        try:
            async for chunk in chunks:
                self._buffer += chunk
                if len(self._buffer) >= max(RUN_BYTES, self._page_size):
                    await loop.run_in_executor(self._executor, self._write_run, replacement)
            await loop.run_in_executor(self._executor, self._write_run, replacement)
            if self._pgno <= self._page_n:
                raise UnusableBodyError(f"read page {self._pgno}: {'unexpected EOF' if self._buffer else 'EOF'}")
            # It may wait for an application and for the disk, and must not keep streams from their threads meanwhile.
            await asyncio.to_thread(replacement.commit)
        finally:
            await loop.run_in_executor(self._executor, replacement.abort)

    async def _read_header(self, chunks: AsyncIterator[bytes]) -> SqliteHeader:
        async for chunk in chunks:
            self._buffer += chunk
            if len(self._buffer) >= DATABASE_HEADER_SIZE:
                break
        if not self._buffer:
            raise UnusableBodyError("read database header: EOF")
        if self._buffer[: len(DATABASE_MAGIC)] != DATABASE_MAGIC[: len(self._buffer)]:
            raise UnusableBodyError("read database header: invalid database header")
        if len(self._buffer) < DATABASE_HEADER_SIZE:
            raise UnusableBodyError("read database header: unexpected EOF")
        try:
            return SqliteHeader.parse(bytes(self._buffer[:DATABASE_HEADER_SIZE]))
        except FormatError as error:
            raise UnusableBodyError(f"read database header: {error}") from error

    def _page_n_of(self, header: SqliteHeader) -> int:
        """Returns the size of the database in pages, as SQLite would find it."""
        if header.is_page_n_valid:
            return header.page_n
        if self._content_length is None:
            raise UnusableBodyError("read database header: its page count is stale, so Content-Length is required")
        return max(self._content_length // header.page_size, 1)

    def _write_run(self, replacement: Replacement) -> None:
        """Writes the whole pages that are in the buffer, as far as they belong to the database."""
        page_n = min(len(self._buffer) // self._page_size, self._page_n + 1 - self._pgno)
        run_bytes = page_n * self._page_size
        if page_n:
            with memoryview(self._buffer) as view, view[:run_bytes] as run:
                replacement.write_pages(self._pgno, run)
            self._pgno += page_n
        if self._pgno > self._page_n:
            self._buffer.clear()
        else:
            del self._buffer[:run_bytes]
