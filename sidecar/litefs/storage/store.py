"""All databases of a data directory: opening, making, dropping, and commits that span several.

Strategy: the store knows names and nothing of FUSE. Long work comes as steps (`steps`), so that whoever
serves the mount can let others through.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from litefs.errors import CommitRefusedError, CorruptStateError, DiskLostError, FormatError, NotPrimaryError
from litefs.storage import replacement
from litefs.storage.data_dir import DataDir
from litefs.storage.database import BASE_NAME, LOG_NAME, CommitGate, Database, StoreSettings
from litefs.storage.disk import Disk
from litefs.storage.free_space import FreeSpace
from litefs.storage.incoming import discard_incoming, find_incoming
from litefs.storage.recovery import FoundLog, Progress, read_found_log, recover
from litefs.storage.scratch import ScratchFile
from litefs.storage.served import ServedDatabase
from litefs.storage.set_aside import set_aside
from litefs.storage.state import NEXT_STATE_NAME, DatabaseState, read_state
from litefs.storage.steps import Steps

EMPTY_NAME = "empty"
"""A file of this name in its directory says that the database shows in the mount even while it has no pages."""

_log = logging.getLogger("litefs.storage")


class Store:
    """The databases of one node.

    Attributes:
        needed: by name, the transactions behind which replicas need images of the log, ascending.
    """

    def __init__(self, data_dir: DataDir, disk: Disk, settings: StoreSettings, gate: CommitGate) -> None:
        """Opens nothing yet: see `open`."""
        self.data_dir = data_dir
        self.disk = disk
        self.settings = settings
        self.gate = gate
        self.databases: dict[str, ServedDatabase] = {}
        self.needed: dict[str, list[int]] = {}
        self.super_journals: dict[bytes, ScratchFile] = {}
        self._marked: list[Database] = []  # the members of the last decision
        self.on_accept: Callable[[Database], None] = lambda database: None
        self._root = data_dir.path / "dbs"
        self._space = FreeSpace(disk, self._root)

    # ---- start ----

    def open(self, progress: Progress, *, set_aside_damaged: bool = False) -> None:
        """Recovers every database.

        Args:
            progress: told how far the verification is.
            set_aside_damaged: move a database that does not add up out of the way (`set_aside`) and go on
                without it, as a node that must follow (`must_follow`). Whoever leads for ever stops instead.

        Raises:
            CorruptStateError: a database does not add up. Nothing was deleted.
            OSError: the disk failed.
        """
        found: dict[str, tuple[DatabaseState, FoundLog]] = {}
        damaged: dict[str, CorruptStateError] = {}
        for directory in sorted(path for path in self._root.iterdir() if path.is_dir()):
            try:
                found[directory.name] = self._look_into(directory)
            except CorruptStateError as error:
                damaged[directory.name] = error
        groups = {group for state, log in found.values() for group in (state.group, *log.live_groups()) if group}
        for name, (state, log) in found.items():
            if not damaged or set_aside_damaged:
                try:
                    self._recover(name, state, log, groups, progress)
                    continue
                except CorruptStateError as error:
                    damaged[name] = error
            log.close(self.disk)
        for name, reason in damaged.items():
            if not set_aside_damaged:
                raise reason
            set_aside(self.disk, self.data_dir.path, self._root / name, reason)

    def _look_into(self, directory: Path) -> tuple[DatabaseState, FoundLog]:
        replacement.finish_at_start(self.disk, directory)
        replacement.clean_up(self.disk, directory)
        return read_state(directory) or DatabaseState(), read_found_log(self.disk, directory)

    def _recover(self, name: str, state: DatabaseState, log: FoundLog, groups: set[int], progress: Progress) -> None:
        directory = self._root / name
        database = self._new_database(name, state)
        try:
            recover(database, log, groups, progress)
        except BaseException:
            database.close()
            raise
        database.exists = database.page_n > 0 or (directory / EMPTY_NAME).exists()
        if database.txid or database.exists:
            self._serve(database)
        else:
            database.close()
            self.disk.remove_tree("store.never_used", directory)

    def database(self, name: str) -> ServedDatabase | None:
        """Returns the database that shows under a name."""
        served = self.databases.get(name)
        return served if served is not None and served.database.exists else None

    def names(self) -> Iterable[str]:
        """Returns the names that show, sorted."""
        return sorted(name for name, served in self.databases.items() if served.database.exists)

    # ---- making and dropping ----

    def create(self, name: str, *, shows: bool = True) -> ServedDatabase:
        """Makes an empty database, or lets a dropped one begin anew behind its last position.

        Args:
            shows: False where only its directory is needed so far: for a journal or an image that came first.

        Raises:
            OSError: the disk cannot take it.
        """
        directory = self._root / name
        for path in (directory, directory / "log"):
            self.disk.make_directory("store.create", path)
        if shows:
            fd = self.disk.open("store.show", directory / EMPTY_NAME, os.O_WRONLY | os.O_CREAT)
            self.disk.close("store.show", fd)
        old = self.databases.get(name)
        if old is None:
            served = self._serve(self._new_database(name, DatabaseState()))
        else:
            served = ServedDatabase(old.database)
            if not old.dead:  # what lies beside it came first
                served.journal, served.wal, served.shm = old.journal, old.wal, old.shm
            served.database.size = 0
            self.databases[name] = served
        served.database.exists = shows
        return served

    def drop(self, name: str) -> Steps[None]:
        """Removes a database: the commit of an image without pages. The old inode's handles are dead after it.

        The state file follows with the next checkpoint of the log; until then the log says it. The position is kept for
        ever, but of a database that never had one nothing is.

        Raises:
            NotPrimaryError: this node may not.
            OSError: the log cannot take the image.
            DiskLostError: the process must stop.
        """
        served = self.databases[name]
        database = served.database
        assert served.load is None, "the load is to be given up first"
        # A transaction that was prepared and not ended, as a killed application leaves it: the log takes one at a time.
        yield from served.journal.take_back()
        empty = database.directory / EMPTY_NAME
        if empty.exists():
            self.disk.unlink("store.hide", empty)
        if database.txid:
            yield from database.drop()
        else:
            database.exists = False
        served.dead = True
        served.journal.discard_pages()
        if not database.txid and self._is_unused(served):
            del self.databases[name]
            database.base.retire()
            database.log.retire()
            with suppress(OSError):  # the next start removes it
                self.disk.remove_tree("store.never_used", database.directory)

    def _is_unused(self, served: ServedDatabase) -> bool:
        """Nothing lies beside a database, in the mount or in its directory, and nothing goes on in it."""
        database, log = served.database, served.database.log
        if log.last_txid or log.is_used or database.is_state_busy or served.is_being_replaced:
            return False
        is_alone = served.journal.file is served.wal.file is served.shm is None
        return is_alone and {BASE_NAME, LOG_NAME}.issuperset(os.listdir(database.directory))

    # ---- several databases in one commit ----

    def unlink_super_journal(self, name: bytes) -> Steps[None]:
        """Removes a super-journal: the commit of a transaction over several databases.

        The images of all members go into their logs as prepared, with a common mark; then one of them
        is marked live and synced. That sync decides.

        Crash: before it no member's image counts, after it all do, for all were durable before.

        Raises:
            CommitRefusedError, OSError: none of the members commits; SQLite rolls all of them back.
            DiskLostError: the process must stop.
        """
        # Journals name it by a path as the application sees it; the mount has no directories.
        members = [
            served
            for served in self.databases.values()
            if served.journal.is_active and os.path.basename(served.journal.super_journal()) == name
        ]
        group = secrets.randbits(63) | 1
        try:
            for served in members:
                yield from served.journal.prepare(durable=served.journal.synced, group=group)
            yield from self._decide(members)
        except (CommitRefusedError, OSError):
            for served in members:
                yield from served.journal.take_back()
            raise
        for served in members:
            served.journal.decide()
        self.super_journals.pop(name).close()

    def _decide(self, members: list[ServedDatabase]) -> Steps[None]:
        prepared = [
            (served, done.record)
            for served in members
            if (done := served.journal.prepared) is not None and done.record is not None and done.group
        ]
        if not prepared:
            return
        # A state file names the last group only. Before that is another one the members of this one must not need it.
        for database in self._marked:
            yield from database.sync_log()
        if not self.gate.is_open:
            raise NotPrimaryError("this node ceased to be the primary")
        decider, record = prepared[0]
        decider.database.log.mark_live(record)
        if self.settings.sync_every_commit or any(served.journal.synced for served, _ in prepared):
            yield from decider.database.sync_log()
        # It is decided: what fails from here on is no refusal.
        for served, record in prepared[1:]:
            try:
                served.database.log.mark_live(record)
            except OSError as error:
                raise DiskLostError(f"{served.database.name}: marking a decided transaction: {error}") from error
        self._marked = [served.database for served, _ in prepared]

    # ---- whole new states ----

    def flip_replacement(self, name: str) -> Steps[ServedDatabase]:
        """Carries out a prepared replacement. The database served so far is dead; returns the new one.

        Raises:
            CommitRefusedError: a commit came in between; the old state stands and the replacement is cancelled.
            CorruptStateError: no replacement is prepared, or it cannot be believed; the old state stands.
            DiskLostError: recovery finishes it at the next start, so the process must stop.
        """
        old = self.databases[name]
        directory = self._root / name
        planned = read_state(directory, NEXT_STATE_NAME)
        if planned is None:
            raise CorruptStateError(f"{name}: no replacement is prepared")
        try:
            sums = yield partial(replacement.take_sums, self.disk, directory, planned.incoming, planned.page_n)
            if self.gate.is_open:
                replacement.check_may_flip(old.database, planned)
            yield from replacement.carry_out(old.database, planned)
        except (CommitRefusedError, OSError, FormatError):
            yield from replacement.cancel(old.database, planned)
            discard_incoming(self.disk, directory, planned.incoming)
            raise
        old.dead = old.is_replaced = True
        old.database.base.retire()
        old.database.log.retire()
        try:
            database = self._new_database(name, planned)
            database.reopen(planned, sums)
        except OSError as error:
            raise DiskLostError(f"{name}: replacing its state: {error}") from error
        served = self._serve(database)
        self.on_accept(database)
        return served

    def discard_unfinished(self, node_pid: int) -> Steps[None]:
        """Removes what dead node processes left of new states, which may be as large as the databases.

        Args:
            node_pid: the process that lives.
        """
        for path in (yield partial(find_incoming, self._root, (os.getpid(), node_pid))):
            served = self.databases.get(path.parent.name)
            discard = partial(replacement.discard_unfinished, self.disk, path)
            try:
                if served is not None:
                    yield from served.database.alone(discard)
                else:
                    yield discard
            except (CorruptStateError, OSError) as error:
                _log.warning("%s: what a dead node process left stays until the next start: %s", path, error)

    def close(self) -> None:
        """Closes everything; writes nothing."""
        for served in self.databases.values():
            served.close()

    def _new_database(self, name: str, state: DatabaseState) -> Database:
        return Database(name, self._root / name, self.disk, self._space, self.settings, self.gate, state)

    def _serve(self, database: Database) -> ServedDatabase:
        database.on_accept = self._accepted
        served = self.databases[database.name] = ServedDatabase(database)
        return served

    def _accepted(self, database: Database) -> None:
        self.on_accept(database)

    def directory(self, name: str) -> Path:
        """Returns where a database lies."""
        return self._root / name
