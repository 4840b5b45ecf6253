"""Transactions through a real rollback journal, with SQLite as the judge of what a death or a full disk leaves."""

import os
import resource
import signal
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from litefs.errors import FormatError, LockHeldError
from litefs.formats.checksum import lock_pgno
from litefs.formats.journal import RECORD_N_UNKNOWN, JournalReader, JournalWriter
from litefs.node.journal_applier import JournalApplier
from litefs.node.mounted_database import MountedDatabase, Page
from tests.unit.node.recorder import Recorder, Transaction
from tests.unit.node.wal_world import in_child

STEPS = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)",
    "INSERT INTO t SELECT value, randomblob(900) FROM json_each('[1, 2, 3, 4, 5]')",
    f"INSERT INTO t SELECT value, randomblob(900) FROM json_each('{list(range(10, 3000))}')",
    "UPDATE t SET body = randomblob(700) WHERE id % 100 = 0",
    "DELETE FROM t WHERE id > 20; VACUUM",
    f"INSERT INTO t SELECT value, randomblob(900) FROM json_each('{list(range(50, 90))}')",
    "DROP TABLE t; VACUUM",
]


class Target:
    """A database `db` in a plain directory, and its applier."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = directory / "db"
        self.journal_path = directory / "db-journal"
        self.database = MountedDatabase(str(directory), "db")

    def apply(self, transaction: Transaction) -> None:
        """As the node does: under RESERVED."""
        self.database.open(create=True)
        self.database.lock_reserved(1.0)
        try:
            JournalApplier(self.database).apply(transaction.pages, transaction.page_size, transaction.commit)
        finally:
            self.database.unlock()

    def die_at(self, transaction: Transaction, point: str, nth: int = 1) -> None:
        """Has another process apply a transaction and die when it gets to `point` for the nth time."""
        left = [nth]

        def hook(reached: str) -> None:
            left[0] -= reached == point
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        def work() -> None:
            database = MountedDatabase(str(self.path.parent), "db")
            database.open(create=True)
            database.lock_reserved(1.0)
            JournalApplier(database, hook).apply(transaction.pages, transaction.page_size, transaction.commit)

        assert in_child(work) == -signal.SIGKILL, f"{point} {nth} was not reached"

    def read_by_sqlite(self) -> bytes:
        """Has SQLite read the database, which plays back a hot journal; returns the file then."""

        def work() -> None:
            connection = sqlite3.connect(self.path)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

        assert in_child(work) == 0
        assert not self.journal_path.exists()
        return self.path.read_bytes()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "target")
    yield target
    target.database.close()


@contextmanager
def recorded(path: Path, page_size: int) -> Iterator[list[Transaction]]:
    """The transactions of all `STEPS`, the first one being the empty database that SQLite makes."""
    recorder = Recorder(path, "delete", page_size)
    try:
        yield [recorder.run(step) for step in STEPS]
    finally:
        recorder.close()
        path.unlink()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Transaction]]:
    with recorded(tmp_path_factory.mktemp("recorded") / "source.db", 1024) as transactions:
        yield transactions


LARGE, SMALLER = 2, 4
"""Which of the steps grows the database by more than a batch of pages, and which cuts it off."""


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_after_each_transaction_the_file_is_the_source_byte_for_byte(
    tmp_path: Path, target: Target, page_size: int
) -> None:
    with recorded(tmp_path / "source.db", page_size) as transactions:
        for transaction in transactions:
            target.apply(transaction)
            assert target.path.read_bytes() == transaction.state
            assert not target.journal_path.exists()


def test_connections_that_are_open_see_each_transaction(target: Target, steps: list[Transaction]) -> None:
    target.apply(steps[0])

    def work() -> None:
        connection = sqlite3.connect(target.path)
        seen = []
        for transaction in steps[1:LARGE]:
            seen.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])
            in_child(lambda transaction=transaction: target.apply(transaction))  # type: ignore[misc]
        seen.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])
        assert seen == [0, 5]

    assert in_child(work) == 0


@pytest.mark.parametrize("index", [0, 1, LARGE, 3, SMALLER])
@pytest.mark.parametrize("point", ["journal-written", "pages-written", "before-unlink"])
@pytest.mark.parametrize("heir", ["sqlite", "applier", "next transaction"])
def test_a_transaction_whose_applier_died_is_rolled_back_by_whoever_comes(
    target: Target, steps: list[Transaction], index: int, point: str, heir: str
) -> None:
    before = steps[index - 1].state if index else b""
    target.path.write_bytes(before)
    target.die_at(steps[index], point)
    assert target.journal_path.exists()
    if heir == "sqlite":
        assert target.read_by_sqlite() == before
    elif heir == "applier":
        JournalApplier(target.database).roll_back_hot_journal()
        assert target.path.read_bytes() == before
    target.apply(steps[index])
    assert target.path.read_bytes() == steps[index].state
    assert not target.journal_path.exists()


@pytest.mark.parametrize("index", [0, 1, LARGE, 3, SMALLER])
def test_two_deaths_in_a_row_lose_nothing(target: Target, steps: list[Transaction], index: int) -> None:
    """The second applier begins with the rollback, and what it writes down must be of the state after that."""
    before = steps[index - 1].state if index else b""
    target.path.write_bytes(before)
    for _ in range(2):
        target.die_at(steps[index], "before-unlink")
    assert target.read_by_sqlite() == before


@pytest.mark.parametrize("index", [LARGE, SMALLER])
@pytest.mark.parametrize("point", ["journal-written", "pages-written"])
def test_a_transaction_larger_than_a_batch_is_rolled_back_from_its_second_batch(
    target: Target, steps: list[Transaction], index: int, point: str
) -> None:
    target.path.write_bytes(steps[index - 1].state)
    target.die_at(steps[index], point, nth=2)
    assert target.path.read_bytes() != steps[index - 1].state, "the first batch is in the file"
    assert target.read_by_sqlite() == steps[index - 1].state


def test_control_a_journal_that_lacks_a_batch_is_noticed(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[LARGE].state)
    target.die_at(steps[3], "pages-written")
    os.truncate(target.journal_path, 512 + 10 * (1024 + 8))
    with pytest.raises(AssertionError):
        assert target.read_by_sqlite() == steps[LARGE].state


def test_a_torn_journal_protects_pages_that_were_not_written(target: Target, steps: list[Transaction]) -> None:
    """A death in the write of the journal: what of it there is must do no harm."""
    before = steps[LARGE].state
    for size in (0, 1, 28, 511, 512, 513, 512 + 1024, 512 + 1032 + 3):
        target.path.write_bytes(before)
        target.die_at(steps[3], "journal-written")
        os.truncate(target.journal_path, size)
        JournalApplier(target.database).roll_back_hot_journal()
        assert target.path.read_bytes() == before
        target.apply(steps[3])
        assert target.path.read_bytes() == steps[3].state


# ---- the journal of an application, with a super-journal ----


def application_journal(target: Target, before: bytes, super_journal: Path) -> None:
    """Leaves the journal of an application that died in a commit over several databases."""
    writer = JournalWriter(page_size=1024, page_n=len(before) // 1024, nonce=1)
    name = os.fsencode(super_journal)
    records = writer.header(RECORD_N_UNKNOWN) + writer.record(1, before[:1024])
    end = lock_pgno(1024).to_bytes(4, "big") + name + len(name).to_bytes(4, "big")
    end += sum(int.from_bytes([byte], "big", signed=True) for byte in name).to_bytes(4, "big")
    target.journal_path.write_bytes(records + end + bytes.fromhex("d9d505f920a163d7"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_journal_that_names_a_super_journal_is_hot_while_that_exists(
    target: Target, steps: list[Transaction], exists: bool
) -> None:
    before = steps[1].state
    changed = before[:500] + b"changed" + before[507:]
    target.path.write_bytes(changed)
    super_journal = target.path.with_name("db-mj0123456A9")
    application_journal(target, before, Path("/elsewhere") / super_journal.name)  # as another mount namespace sees it
    if exists:
        super_journal.touch()
    JournalApplier(target.database).roll_back_hot_journal()
    assert target.path.read_bytes() == (before if exists else changed)
    assert not target.journal_path.exists()


def test_a_journal_that_is_not_active_changes_nothing(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[1].state)
    target.journal_path.write_bytes(bytes(2000))
    JournalApplier(target.database).roll_back_hot_journal()
    assert target.path.read_bytes() == steps[1].state
    assert not target.journal_path.exists()


# ---- refusals ----


@contextmanager
def disk_that_takes(size: int) -> Iterator[None]:
    """No file can become larger, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 600, 30_000, 1_500_000])
def test_a_disk_that_becomes_full_leaves_the_old_state(target: Target, steps: list[Transaction], room: int) -> None:
    target.path.write_bytes(steps[1].state)
    with disk_that_takes(room), pytest.raises(OSError, match="too large"):
        target.apply(steps[LARGE])
    assert target.path.read_bytes() == steps[1].state
    assert not target.journal_path.exists()
    target.apply(steps[LARGE])
    assert target.path.read_bytes() == steps[LARGE].state


def test_a_full_disk_in_the_middle_of_a_shrinking_transaction_leaves_the_old_state(
    target: Target, steps: list[Transaction]
) -> None:
    target.path.write_bytes(steps[SMALLER - 1].state)
    with disk_that_takes(2_000_000), pytest.raises(OSError, match="too large"):
        target.apply(steps[SMALLER])
    assert target.path.read_bytes() == steps[SMALLER - 1].state


def test_pages_that_cannot_be_read_leave_the_old_state(target: Target, steps: list[Transaction]) -> None:
    def failing() -> Iterable[Page]:
        yield from steps[LARGE].pages[:1500]
        raise FormatError("the log is damaged")

    target.path.write_bytes(steps[1].state)
    target.database.open()
    with pytest.raises(FormatError, match="log is damaged"):
        JournalApplier(target.database).apply(failing(), 1024, steps[LARGE].commit)
    assert target.path.read_bytes() == steps[1].state
    assert not target.journal_path.exists()


def test_pages_of_another_size_are_refused(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[1].state[:-512])
    with pytest.raises(FormatError, match="no whole pages"):
        target.apply(steps[LARGE])
    assert target.path.read_bytes() == steps[1].state[:-512]
    assert not target.journal_path.exists()


# ---- readers ----


def test_applications_read_while_the_journal_is_written(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[1].state)

    def work() -> None:
        assert sqlite3.connect(target.path, timeout=0).execute("SELECT count(*) FROM t").fetchone() == (5,)

    exit_codes: list[int] = []

    def hook(point: str) -> None:
        if point == "journal-written" and not exit_codes:
            exit_codes.append(in_child(work))

    target.database.open()
    target.database.lock_reserved(1.0)
    JournalApplier(target.database, hook).apply(steps[2].pages, steps[2].page_size, steps[2].commit)
    target.database.unlock()
    assert exit_codes == [0]
    assert target.read_by_sqlite() == steps[2].state


def test_a_reader_that_stays_leaves_everything_as_it_was(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[1].state)
    reader = MountedDatabase(str(target.path.parent), "db")
    reader.open()
    reader.lock_shared(1.0)
    with pytest.raises(LockHeldError, match="SHARED"):
        target.apply(steps[2])
    assert not target.journal_path.exists()
    assert target.path.read_bytes() == steps[1].state
    reader.close()
    target.apply(steps[2])
    assert target.read_by_sqlite() == steps[2].state


def test_a_hot_journal_is_not_played_back_under_a_reader(target: Target, steps: list[Transaction]) -> None:
    target.path.write_bytes(steps[1].state)
    target.die_at(steps[2], "pages-written")
    reader = MountedDatabase(str(target.path.parent), "db")
    reader.open()
    reader.lock_shared(1.0)
    half = target.path.read_bytes()
    with pytest.raises(LockHeldError):
        target.apply(steps[2])
    assert target.path.read_bytes() == half
    assert target.journal_path.exists()
    reader.close()
    target.apply(steps[2])
    assert target.read_by_sqlite() == steps[2].state


# ---- what else a transaction may do ----


def test_the_wal_is_there_before_anybody_can_read_a_database_that_enters_wal_mode(
    tmp_path: Path, target: Target
) -> None:
    recorder = Recorder(tmp_path / "source.db", "delete", 1024)
    first, entering = recorder.run(STEPS[0]), recorder.run("PRAGMA journal_mode = WAL")
    recorder.close()
    target.apply(first)
    with pytest.raises(FileNotFoundError):
        target.path.with_name("db-wal").stat()
    target.apply(entering)
    assert target.path.with_name("db-wal").stat().st_size == 0


def test_the_lock_page_is_never_put_into_the_journal(target: Target) -> None:
    """It is at 1 GiB: a database that shrinks below it, as a file with a hole."""
    page_size, lock = 65536, lock_pgno(65536)
    with target.path.open("wb") as file:
        file.truncate((lock + 3) * page_size)
    shrunk = Transaction(pages=[(1, b"\1" * page_size)], page_size=page_size, commit=lock - 2, state=b"")
    target.die_at(shrunk, "before-unlink")
    fd = os.open(target.journal_path, os.O_RDONLY)
    try:
        reader = JournalReader(lambda offset, size: os.pread(fd, size, offset), os.fstat(fd).st_size)
        assert [record.pgno for record in reader.records()] == [1, lock - 1, lock + 1, lock + 2, lock + 3]
    finally:
        os.close(fd)
    JournalApplier(target.database).roll_back_hot_journal()
    assert target.path.stat().st_size == (lock + 3) * page_size
    target.apply(shrunk)
    assert target.path.stat().st_size == (lock - 2) * page_size
