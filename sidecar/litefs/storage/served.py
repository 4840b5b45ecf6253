"""One database with the files beside it, as the mount serves them: who takes which write.

A write into the database file belongs to
    the load under way            the file is being filled without SQLite (`raw_load`)
    the open transaction          a rollback journal is active (`journal_commit`)
    a checkpoint                  the database is in WAL mode and its WAL exists; for a program that is not SQLite
                                  the WAL must have frames, too (`wal_commit`)
    a new load                    the writer is not SQLite
    nobody                        SQLite writes without a journal: refused, for it cannot be replicated
"""

import logging

from litefs.errors import CommitRefusedError, NotPrimaryError, UncapturedWriteError
from litefs.storage.database import Database
from litefs.storage.journal_commit import RollbackJournal
from litefs.storage.raw_load import RawLoad
from litefs.storage.scratch import ScratchFile
from litefs.storage.steps import Steps
from litefs.storage.wal_commit import WalCapture

_log = logging.getLogger("litefs.storage")


class ServedDatabase:
    """A database, its rollback journal, its WAL and its shared memory.

    Attributes:
        dead: dropped or replaced: the database file answers ESTALE.
        is_replaced: so do its journal and its WAL, or an old connection would recover the old state from them.
        is_being_replaced: nobody but the node process makes a journal or a WAL: the flip is about to come.
    """

    def __init__(self, database: Database) -> None:
        """Args: database: recovered."""
        self.database = database
        self.journal = RollbackJournal(database)
        self.wal = WalCapture(database)
        self.shm: ScratchFile | None = None
        self.load: RawLoad | None = None
        self.dead = False
        self.is_replaced = False
        self.is_being_replaced = False
        self._complained = False

    # ---- the database file ----

    @property
    def size(self) -> int:
        """Size in bytes of the database file as readers see it."""
        return self.load.size if self.load is not None else self.database.size

    def read(self, offset: int, size: int) -> bytes:
        """Reads the database file; fewer bytes at its end."""
        if self.load is not None:
            return self.load.read(offset, size)
        if self.journal.overlay is not None:
            return self.journal.read(offset, size)
        data = self.database.base.read(offset, size)
        missing = min(size, self.database.size - offset) - len(data)
        return data + bytes(missing) if missing > 0 else data

    def write(self, offset: int, data: bytes, *, by_sqlite: bool) -> Steps[None] | None:
        """Writes into the database file.

        Args:
            by_sqlite: the handle was opened as SQLite opens databases.

        Returns:
            None if all is done, which is the rule; steps where a load begins with a copy of the database.

        Raises:
            UncapturedWriteError: nothing announces this write.
            NotPrimaryError: a file is being loaded on a replica.
            OSError: the disk cannot take it.
        """
        if self.load is not None:
            self.load.write(offset, data)
        elif self.journal.is_active:
            self.journal.write_page(offset, data)
        elif self._is_checkpoint(by_sqlite=by_sqlite):
            self.wal.checkpoint_write(offset, data)
        else:
            self._check_may_load(by_sqlite=by_sqlite)
            return self._begin_load_and_write(offset, data)
        return None

    def truncate(self, size: int, *, by_sqlite: bool) -> None:
        """Sets the size of the database file. Raises as `write`."""
        database = self.database
        if self.load is not None:
            self.load.truncate(size)
        elif self.journal.is_active:
            self.journal.truncate_database(size)
        elif self._is_checkpoint(by_sqlite=by_sqlite):
            self.wal.truncate_database(size)
        elif size == database.page_n * database.page_size or (
            by_sqlite and size > database.page_n * database.page_size
        ):
            database.size = size  # SQLite drops the tail after a shrinking commit, or rounds up to its chunk size
        elif size and database.page_n:
            raise UncapturedWriteError(
                f"{database.name}: a database is not resized to {size} bytes outside a transaction"
            )
        else:
            self._check_may_load(by_sqlite=by_sqlite)
            self.load = RawLoad(database)
            self.load.truncate(size)

    def _is_checkpoint(self, *, by_sqlite: bool) -> bool:
        """The WAL explains a change of the database file. For another program than SQLite it must hold frames, too."""
        wal = self.wal
        if wal.file is None or not self.database.wal_mode:
            return False
        return by_sqlite or (wal.holds_frames and self.database.gate.is_open)

    def sync(self) -> Steps[None]:
        """The database's fsync: all pages of a commit are written, or a checkpoint is.

        Raises:
            CommitRefusedError, OSError: the transaction will not commit.
        """
        if self.load is not None:
            yield from self.finish_load()
        else:
            yield from self.journal.prepare_in_sync()

    # ---- loads ----

    def finish_load(self) -> Steps[None]:
        """Commits a load if the file is a whole database now; otherwise it stays open.

        Raises:
            CommitRefusedError, OSError: it stays open.
        """
        load = self.load
        if load is not None and (yield from load.commit()):
            self.load = None

    def _begin_load_and_write(self, offset: int, data: bytes) -> Steps[None]:
        load = RawLoad(self.database)
        try:
            if self.database.size:
                yield from load.copy_present()
            self._check_unloaded()
            load.write(offset, data)
        except BaseException:
            load.discard()
            raise
        self.load = load

    def _check_unloaded(self) -> None:
        if self.load is not None or self.dead:
            raise CommitRefusedError(f"{self.database.name}: filled twice at once, or dropped")

    def _check_may_load(self, *, by_sqlite: bool) -> None:
        database = self.database
        if by_sqlite:
            if not self._complained:
                self._complained = True
                _log.warning(
                    "%s: write without a journal refused: PRAGMA journal_mode=MEMORY and OFF cannot be replicated",
                    database.name,
                )
            raise UncapturedWriteError(f"{database.name}: write without a journal")
        if not database.gate.is_open:
            raise NotPrimaryError(f"{database.name}: this node is not the primary")

    def close(self) -> None:
        """Closes everything; writes nothing."""
        if self.load is not None:
            self.load.close()
        if self.shm is not None:
            self.shm.close()
        self.database.close()
