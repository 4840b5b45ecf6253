"""A whole new state for a database of this primary: an import.

Strategy: the pages go into the incoming files while the old state is served. For the flip the node takes the
database's write lock, so that no commit comes between the position that is replaced and the new one.
"""

import os
from collections.abc import Callable
from pathlib import Path

from litefs.errors import CorruptStateError, NotPrimaryError
from litefs.formats.sqlite_header import DATABASE_HEADER_SIZE, is_wal_mode
from litefs.link import messages as m
from litefs.node.mounted_database import MountedDatabase
from litefs.node.replicas import flip
from litefs.node.shm_guard import ShmGuard
from litefs.node.wal_writer import WalWriter
from litefs.storage.incoming import IncomingDatabase

LOCK_TIMEOUT_S = 10.0
"""A transaction of an application may be waited for this long."""


class LocalReplacement:
    """Takes the pages of the new state in order, then puts it in place as the next transaction."""

    def __init__(  # noqa: PLR0913 - one object of the node each, and the shape of the new state
        self,
        name: str,
        page_size: int,
        page_n: int,
        *,
        mount_dir: str,
        data_dir: Path,
        call: Callable[[m.PrepareReplacement], m.Answer],
        position: Callable[[], m.DatabaseInfo | None],
        guard: ShmGuard,
        now_ms: Callable[[], int],
    ) -> None:
        """Args: call: asks the filesystem process; position: where the database stands now."""
        self._name = name
        self._page_size = page_size
        self._page_n = page_n
        self._mount_dir = mount_dir
        self._call = call
        self._position = position
        self._guard = guard
        self._now_ms = now_ms
        self._incoming: IncomingDatabase | None = IncomingDatabase(data_dir / "dbs" / name, page_size, page_n)

    def write_pages(self, first_pgno: int, data: bytes | memoryview) -> None:
        """Takes the next run of whole pages.

        Raises:
            FormatError: it does not follow.
            OSError: the disk cannot take it.
        """
        assert self._incoming is not None, "commit() or abort() was called"
        self._incoming.write_pages(first_pgno, data)

    def commit(self) -> None:
        """Makes the state durable and flips it in.

        Raises:
            LockHeldError: an application would not let go of the database; nothing was replaced.
            NotPrimaryError: the filesystem process refused; nothing was replaced.
        """
        assert self._incoming is not None, "commit() or abort() was called"
        checksum, incoming = self._incoming.finish(), self._incoming.name
        database = MountedDatabase(self._mount_dir, self._name)
        wal: WalWriter | None = None
        try:
            header = database.header()
            if len(header) == DATABASE_HEADER_SIZE and is_wal_mode(header):
                wal = WalWriter(database)
                wal.open()
            elif header:
                database.lock_exclusive(LOCK_TIMEOUT_S)
            self._flip(checksum, incoming)
        finally:
            if wal is not None:
                wal.close()
            database.close()

    def abort(self) -> None:
        """Removes what was written; nothing after `commit`."""
        if self._incoming is not None:
            self._incoming.abort()
            self._incoming = None

    def _flip(self, checksum: int, incoming: str) -> None:
        info = self._position()
        self._incoming = None  # the filesystem process removes it from here on
        request = m.PrepareReplacement(
            name=self._name,
            txid=(info.txid if info is not None else 0) + 1,
            checksum=checksum,
            page_size=self._page_size,
            page_n=self._page_n,
            timestamp_ms=self._now_ms(),
            incoming=incoming,
        )
        answer = self._call(request)
        if isinstance(answer, m.Rejected):
            raise NotPrimaryError(answer.reason)
        if not isinstance(answer, m.ReplacementReady):
            raise CorruptStateError(f"{self._name}: unexpected answer {answer}")
        if not os.path.lexists(os.path.join(self._mount_dir, answer.mount_name)):
            raise CorruptStateError(f"{self._name}: the mount does not show {answer.mount_name}")
        flip(self._mount_dir, answer, self._guard)
