"""Plays transactions against the storage layer with the file operations SQLite makes for them, without FUSE.

A `Player` is one connection to one database. It holds what SQLite would hold: the pages as the connection sees
them. The operations and their order are those of SQLite 3.40 (pager.c, wal.c), pages are small, and their content
is random but for page 1, which states the page size, the size of the database, and the journal mode.

What waits for the disk is there twice: `commit` goes through, `commit_steps` lets others run between its requests and
whenever storage does.
"""

import errno
import random
import struct
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from litefs.errors import CommitRefusedError
from litefs.formats.journal import JOURNAL_HEADER_SIZE, JOURNAL_MAGIC, JournalReader, JournalWriter
from litefs.formats.sqlite_header import DATABASE_MAGIC, page_size_of
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, WalHeader
from litefs.storage.disk import Disk
from litefs.storage.scratch import ScratchFile
from litefs.storage.served import ServedDatabase
from litefs.storage.steps import Steps, run
from litefs.storage.store import Store
from tests.support.wal_frames import encode_frame_header

PAGE_SIZE = 1024
"""Two sectors, so that a page can be torn."""

_SECTOR = 512
_U32 = struct.Struct(">I")

Refusal = (CommitRefusedError, OSError)


class JournalEnd(Enum):
    """How a rollback-mode transaction ends: `PRAGMA journal_mode`."""

    DELETE = "delete"
    TRUNCATE = "truncate"
    PERSIST = "persist"


def page_one(page_n: int, counter: int, *, wal: bool, page_size: int = PAGE_SIZE) -> bytes:
    """Returns a page 1 that SQLite would take for one."""
    header = bytearray(page_size)
    header[:16] = DATABASE_MAGIC
    header[16:18] = (page_size if page_size < 65536 else 1).to_bytes(2, "big")
    header[18:20] = b"\2\2" if wal else b"\1\1"
    for offset, value in ((24, counter), (28, page_n), (92, counter)):
        _U32.pack_into(header, offset, value)
    header[100:] = random.Random(counter).randbytes(page_size - 100)
    return bytes(header)


def go_on(steps: Steps[None] | None) -> None:
    """Drives what may be left of a call."""
    if steps is not None:
        run(steps)


class Player:
    """One connection. `pages` are those of the committed database as it sees them, page `pgno` at `pgno - 1`."""

    def __init__(
        self, store: Store, name: str = "a.db", *, page_size: int = PAGE_SIZE, seed: int = 1, create: bool = True
    ) -> None:
        self.store = store
        self.name = name
        self.page_size = page_size
        self.pages: list[bytes] = []
        self.wal = False
        self._random = random.Random(seed)
        self._counter = 0
        self._header: WalHeader | None = None
        self._checksum = (0, 0)
        self._frames: list[int] = []  # pgno of each committed frame of this WAL generation
        self._backfilled = 0
        if create:
            store.create(name)
        else:
            self.look()

    @property
    def served(self) -> ServedDatabase:
        return self.store.databases[self.name]

    @property
    def content(self) -> bytes:
        return b"".join(self.pages)

    def look(self) -> None:
        """Reads the database anew, as a connection that has just been opened."""
        data = self.served.read(0, self.served.size)
        if data:
            self.page_size = page_size_of(data)
        self.pages = [data[at : at + self.page_size] for at in range(0, len(data), self.page_size)]
        self.wal = bool(data) and data[18] == 2
        self._counter = _U32.unpack_from(data, 24)[0] if data else 0

    def change(
        self, pgnos: Iterable[int], page_n: int | None = None, *, wal: bool | None = None, holes: Iterable[int] = ()
    ) -> list[bytes]:
        """Returns the pages of a next state: those numbers new (and page 1), the others as they are.

        Args:
            holes: of the pages that the database grows by, those that SQLite takes and does not write. Not in WAL mode.
        """
        wanted = set(pgnos) | {1}
        size = page_n if page_n is not None else max(len(self.pages), *wanted)
        self._counter += 1
        after = [
            self._random.randbytes(self.page_size) if pgno in wanted or pgno > len(self.pages) else self.pages[pgno - 1]
            for pgno in range(1, size + 1)
        ]
        after[0] = page_one(size, self._counter, wal=self.wal if wal is None else wal, page_size=self.page_size)
        for pgno in holes:
            if len(self.pages) < pgno < size:  # the last one it writes, or the file would end before it
                after[pgno - 1] = bytes(self.page_size)
        return after

    def _is_written(self, pgno: int, page: bytes) -> bool:
        return any(page) if pgno > len(self.pages) else page != self.pages[pgno - 1]

    # ---- rollback modes ----

    def commit(self, after: list[bytes], *, sync: bool = True, end: JournalEnd = JournalEnd.DELETE) -> None:
        """A transaction in a rollback mode. If it is refused it is rolled back, and the refusal raised."""
        run(self.commit_steps(after, sync=sync, end=end))

    def commit_steps(
        self, after: list[bytes], *, sync: bool = True, end: JournalEnd = JournalEnd.DELETE
    ) -> Steps[None]:
        try:
            self.begin(after, sync=sync)
            yield None
            yield from self.write_pages_steps(after, sync=sync)
            yield None
            yield from self.end_steps(end)
        except Refusal:
            yield from self.roll_back_steps()
            raise
        self.take(after)

    def take(self, after: list[bytes]) -> None:
        """Goes on from a transaction that is committed; only now the database is cut if it shrank."""
        if len(after) < len(self.pages):
            self.served.truncate(len(after) * self.page_size, by_sqlite=True)
        self.pages = after

    def begin(self, after: list[bytes], *, sync: bool, super_journal: str = "") -> None:
        """Writes the journal."""
        journal = self.served.journal
        if journal.file is None:
            journal.create()
        old = len(self.pages)
        changed = [pgno for pgno in range(1, old + 1) if pgno > len(after) or after[pgno - 1] != self.pages[pgno - 1]]
        writer = JournalWriter(page_size=self.page_size, page_n=old, nonce=self._random.getrandbits(32))
        header = writer.header(len(changed))
        go_on(journal.write(0, bytes(12) + header[12:] if sync else header))
        offset = _SECTOR
        for pgno in changed:
            record = writer.record(pgno, self.pages[pgno - 1])
            for piece in (record[:4], record[4:-4], record[-4:]):
                go_on(journal.write(offset, piece))
                offset += len(piece)
        if super_journal:
            name = super_journal.encode()
            go_on(journal.write(offset, _U32.pack(0x40000000 // self.page_size + 1)))
            trailer = struct.pack(">II8s", len(name), sum(name), JOURNAL_MAGIC)
            go_on(journal.write(offset + 4, name + trailer))
            run(journal.truncate(offset + 4 + len(name + trailer)))  # it may have persisted, and been longer
        if sync:
            journal.sync()
            go_on(journal.write(0, header[:12]))
            journal.sync()

    def write_pages(self, after: list[bytes], *, sync: bool) -> None:
        """Writes the changed pages into the database, and syncs it."""
        run(self.write_pages_steps(after, sync=sync))

    def write_pages_steps(self, after: list[bytes], *, sync: bool) -> Steps[None]:
        for pgno, page in enumerate(after, 1):
            if self._is_written(pgno, page) or pgno == len(after) > len(self.pages):
                self.served.write((pgno - 1) * self.page_size, page, by_sqlite=True)
        if sync:
            yield None
            yield from self.served.sync()

    def end(self, end: JournalEnd) -> None:
        """Ends the journal: the commit, or the end of a rollback."""
        run(self.end_steps(end))

    def end_steps(self, end: JournalEnd) -> Steps[None]:
        journal = self.served.journal
        if end is JournalEnd.DELETE:
            yield from journal.unlink()
        elif end is JournalEnd.TRUNCATE:
            yield from journal.truncate(0)
        else:
            yield from journal.write(0, bytes(JOURNAL_HEADER_SIZE)) or ()

    def roll_back(self, *, sync: bool = True) -> None:
        """Plays the journal back, as SQLite does after a refusal, or whoever finds it hot."""
        run(self.roll_back_steps(sync=sync))

    def roll_back_steps(self, *, sync: bool = True) -> Steps[None]:
        journal = self.served.journal
        if journal.file is None:
            return
        reader = JournalReader(journal.file.read, journal.file.size)
        if reader.header is not None:
            for record in reader.records():
                self.served.write((record.pgno - 1) * self.page_size, record.page, by_sqlite=True)
            self.served.truncate(reader.header.page_n * self.page_size, by_sqlite=True)
            if sync:
                yield from self.served.sync()
        yield from journal.unlink()

    def vacuum(self, page_size: int, page_n: int) -> bytes:
        """Returns the database as VACUUM would leave it after `PRAGMA page_size`; to be given to `commit_bytes`."""
        self._counter += 1
        first = page_one(page_n, self._counter, wal=False, page_size=page_size)
        return first + self._random.randbytes((page_n - 1) * page_size)

    def commit_bytes(self, data: bytes, *, sync: bool = True) -> None:
        """Commits a state of another page size: written, as SQLite does, in pages of the old one."""
        run(self.commit_bytes_steps(data, sync=sync))

    def commit_bytes_steps(self, data: bytes, *, sync: bool = True) -> Steps[None]:
        old, page_size = self.pages, page_size_of(data)
        try:
            padded = data.ljust(-(-len(data) // self.page_size) * self.page_size, b"\0")
            self.begin([padded[at : at + self.page_size] for at in range(0, len(padded), self.page_size)], sync=sync)
            for at in range(0, len(data), self.page_size):
                self.served.write(at, data[at : at + self.page_size], by_sqlite=True)
            self.served.truncate(len(data), by_sqlite=True)
            yield None
            if sync:
                yield from self.served.sync()
                yield None
            yield from self.end_steps(JournalEnd.DELETE)
        except Refusal:
            self.pages = old
            yield from self.roll_back_steps()
            raise
        self.page_size = page_size
        self.look()

    # ---- WAL mode ----

    def enter_wal(self) -> None:
        """`PRAGMA journal_mode=WAL`: page 1 by a rollback journal, then an empty WAL."""
        self.commit(self.change([1], wal=True))
        self.wal = True
        self.served.wal.create()

    def wal_commit(self, after: list[bytes], *, sync: bool = False) -> None:
        """A transaction in WAL mode. If its last frame is refused SQLite asks once more; then it is raised.

        The change must be one of pages: a shrink is told by the commit frame alone.
        """
        run(self.wal_commit_steps(after))
        if sync:
            run(self.served.database.sync_log())

    def wal_commit_steps(self, after: list[bytes]) -> Steps[None]:
        changed = {pgno: page for pgno, page in enumerate(after, 1) if self._is_written(pgno, page)}
        yield from self.write_frames_steps(changed, len(after))
        self.pages = after

    def write_frames(self, changed: Mapping[int, bytes], commit: int) -> None:
        """Appends the frames of a transaction behind the last committed one."""
        run(self.write_frames_steps(changed, commit))

    def write_frames_steps(self, changed: Mapping[int, bytes], commit: int) -> Steps[None]:
        wal = self.served.wal
        if self._header is None or (self._frames and self._backfilled == len(self._frames)):
            self._restart()
        assert self._header is not None
        checksum = self._checksum
        offset = WAL_HEADER_SIZE + len(self._frames) * (FRAME_HEADER_SIZE + self.page_size)
        for place, (pgno, page) in enumerate(changed.items(), 1):
            size = commit if place == len(changed) else 0
            header, checksum = encode_frame_header(self._header, checksum, pgno, size, page)
            for piece in (header, page[: self.page_size // 2]):
                yield from wal.write(offset, piece) or ()
                offset += len(piece)
            rest = page[self.page_size // 2 :]
            try:
                yield from wal.write(offset, rest) or ()
            except Refusal:
                yield from wal.write(offset, rest) or ()
            offset += len(rest)
        self._checksum = checksum
        self._frames.extend(changed)

    def forget_frames(self, frame_n: int) -> None:
        """Recovers the WAL short of its last `frame_n` frames, as SQLite does when their checksums are wrong."""
        del self._frames[len(self._frames) - frame_n :]
        while self._frames and not self._commit_of(len(self._frames) - 1):
            del self._frames[-1]  # of a transaction whose commit frame is gone
        self._checksum = (self._random.getrandbits(32), self._random.getrandbits(32))
        self._backfilled = 0
        self.pages = self._pages_in_wal()

    def checkpoint(self, frame_n: int | None = None, *, sync: bool = True) -> None:
        """Copies the newest page of the first `frame_n` frames (all) into the database."""
        run(self.checkpoint_steps(frame_n, sync=sync))

    def checkpoint_steps(self, frame_n: int | None = None, *, sync: bool = True) -> Steps[None]:
        frame_n = len(self._frames) if frame_n is None else max(self._backfilled, min(frame_n, len(self._frames)))
        if sync:
            yield from self.served.database.sync_log()
        size = FRAME_HEADER_SIZE + self.page_size
        places = {pgno: WAL_HEADER_SIZE + index * size for index, pgno in enumerate(self._frames[:frame_n])}
        for pgno in sorted(places):
            if pgno <= len(self.pages):
                page = self.served.wal.read(places[pgno] + FRAME_HEADER_SIZE, self.page_size)
                self.served.write((pgno - 1) * self.page_size, page, by_sqlite=True)
                yield None
        self._backfilled = frame_n
        if frame_n == len(self._frames):
            self.served.truncate(len(self.pages) * self.page_size, by_sqlite=True)
            if sync:
                yield from self.served.sync()

    def close_wal(self) -> None:
        """The last connection closes: everything into the database, then the WAL goes."""
        run(self.close_wal_steps())

    def close_wal_steps(self) -> Steps[None]:
        yield from self.checkpoint_steps()
        self.served.wal.unlink()
        self._header, self._frames, self._backfilled = None, [], 0

    def _restart(self) -> None:
        salt = self._header.salt1 + 1 if self._header is not None else self._random.getrandbits(31)
        self._header = WalHeader(
            big_endian=False,
            page_size=self.page_size,
            checkpoint_seq=0,
            salt1=salt,
            salt2=self._random.getrandbits(32),
        )
        go_on(self.served.wal.write(0, self._header.encode()))
        self._checksum = self._header.checksum
        self._frames, self._backfilled = [], 0

    def _pages_in_wal(self) -> list[bytes]:
        """The database as its frames and the database file have it; the last commit frame says how large it is."""
        size = FRAME_HEADER_SIZE + self.page_size
        page_n = self.served.size // self.page_size
        newest: dict[int, bytes] = {}
        for index, pgno in enumerate(self._frames):
            frame = self.served.wal.read(WAL_HEADER_SIZE + index * size, size)
            newest[pgno] = frame[FRAME_HEADER_SIZE:]
            page_n = _U32.unpack_from(frame, 4)[0] or page_n
        return [newest.get(pgno) or self._in_file(pgno) for pgno in range(1, page_n + 1)]

    def _commit_of(self, index: int) -> int:
        offset = WAL_HEADER_SIZE + index * (FRAME_HEADER_SIZE + self.page_size)
        commit: int = _U32.unpack(self.served.wal.read(offset + 4, 4))[0]
        return commit

    def _in_file(self, pgno: int) -> bytes:
        return self.served.read((pgno - 1) * self.page_size, self.page_size).ljust(self.page_size, b"\0")

    # ---- files that are no transaction ----

    def load(self, data: bytes) -> None:
        """`cp` over the database: opened with O_TRUNC, written, synced."""
        run(self.load_steps(data))

    def load_steps(self, data: bytes) -> Steps[None]:
        served = self.served
        served.truncate(0, by_sqlite=False)
        for offset in range(0, len(data), 4096):
            if served.dead:
                raise OSError(errno.ESTALE, "replaced while it was filled")
            served.write(offset, data[offset : offset + 4096], by_sqlite=False)
            yield None
        yield from served.sync()
        self.look()


def make_super_journal(store: Store, disk: Disk, name: str, members: Iterable[str]) -> None:
    """Creates the file that names the journals of a transaction over several databases."""
    scratch = store.super_journals[name.encode()] = ScratchFile(disk, store.data_dir.path)
    scratch.write(0, b"".join(f"/mnt/{member}-journal\0".encode() for member in members))


def commit_together(
    players: list[Player], afters: list[list[bytes]], *, sync: bool = True, end: JournalEnd = JournalEnd.DELETE
) -> None:
    """A transaction over several databases. If it is refused all are rolled back, and the refusal raised."""
    run(commit_together_steps(players, afters, sync=sync, end=end))


def commit_together_steps(
    players: list[Player],
    afters: list[list[bytes]],
    *,
    sync: bool = True,
    end: JournalEnd = JournalEnd.DELETE,
    on_decided: Callable[[], None] = lambda: None,
) -> Steps[None]:
    """Args: on_decided: called when the super-journal is gone."""
    store, name = players[0].store, f"{players[0].name}-mj012345678"
    make_super_journal(store, store.disk, name, (player.name for player in players))
    try:
        for player, after in zip(players, afters, strict=True):
            player.begin(after, sync=sync, super_journal="/mnt/" + name)
            yield from player.write_pages_steps(after, sync=sync)
        yield None
        yield from store.unlink_super_journal(name.encode())
    except Refusal:
        for player in players:
            yield from player.roll_back_steps()
        raise
    on_decided()
    for player, after in zip(players, afters, strict=True):
        yield None
        yield from player.end_steps(end)
        player.take(after)
