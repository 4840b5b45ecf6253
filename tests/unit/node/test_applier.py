"""The applier of one database, in a plain directory: what it may do while an image is on its way into the log."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litefs.formats.checksum import CHECKSUM_FLAG
from litefs.formats.ltx import LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, Txid
from litefs.node.applier import DatabaseApplier
from litefs.node.image import Image, image_of
from litefs.storage.log import Log
from tests.support.faulty_disk import QuickDisk
from tests.unit.node.recorder import Recorder, Transaction

WITHIN_S = 20.0
SEGMENT_BYTES = 1 << 20
STEPS = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB); INSERT INTO t VALUES (1, randomblob(900))",
    "INSERT INTO t VALUES (2, randomblob(900))",
    "INSERT INTO t VALUES (3, randomblob(900))",
]


def image(transaction: Transaction, txid: int) -> Image:
    header = LtxHeader(
        page_size=transaction.page_size,
        commit=transaction.commit,
        min_txid=Txid(txid),
        max_txid=Txid(txid),
        timestamp_ms=1,
        pre_apply=Checksum(CHECKSUM_FLAG | (txid - 1)),
    )
    return image_of(header, CHECKSUM_FLAG | txid, transaction.pages)


def await_that(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Replica:
    """A database `db` that holds the first transaction, and its applier."""

    def __init__(self, directory: Path, transactions: list[Transaction]) -> None:
        self.transactions = transactions
        self.path = directory / "db"
        self.journal_path = directory / "db-journal"
        self.path.write_bytes(transactions[0].state)
        self.failed: list[str] = []
        self.applied: list[int] = []
        self.applier = DatabaseApplier(
            str(directory),
            directory / "log",
            "db",
            applied_txid=1,
            on_failed=self.failed.append,
            on_applied=lambda _name, txid: self.applied.append(txid),
        )
        self.applier.start()

    def state(self, number: int) -> bytes:
        return self.transactions[number - 1].state

    def offer(self, txid: int) -> None:
        self.applier.offer(image(self.transactions[txid - 1], txid))


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    recorder = Recorder(tmp_path / "source", journal_mode="delete")
    transactions = [recorder.run(statements) for statements in STEPS]
    recorder.close()
    (tmp_path / "mount").mkdir()
    replica = Replica(tmp_path / "mount", transactions)
    yield replica
    replica.applier.stop()
    assert replica.applier.join(WITHIN_S)


def test_the_journal_is_made_before_the_image_is_in_the_log_and_no_page_is(replica: Replica) -> None:
    replica.offer(2)
    await_that(lambda: replica.journal_path.exists() and replica.journal_path.stat().st_size > 0)
    assert not replica.applier.join(0.2)
    assert replica.path.read_bytes() == replica.state(1)
    replica.applier.logged(2)
    await_that(lambda: replica.applied == [2])
    assert replica.path.read_bytes() == replica.state(2)
    assert not replica.journal_path.exists()
    assert replica.applier.is_settled


def test_an_image_that_the_log_refuses_leaves_nothing(replica: Replica) -> None:
    replica.offer(2)
    await_that(replica.journal_path.exists)
    replica.applier.logged(0)
    await_that(lambda: not replica.journal_path.exists())
    assert replica.path.read_bytes() == replica.state(1)
    replica.offer(2)
    replica.applier.logged(2)
    await_that(lambda: replica.applied == [2])
    assert replica.path.read_bytes() == replica.state(2)
    assert not replica.failed


def test_an_image_behind_a_refused_one_is_not_applied(replica: Replica) -> None:
    replica.offer(2)
    await_that(replica.journal_path.exists)
    replica.offer(3)
    replica.applier.logged(0)
    await_that(lambda: not replica.journal_path.exists())
    replica.offer(2)
    replica.applier.logged(2)
    await_that(lambda: replica.applied == [2])
    assert replica.path.read_bytes() == replica.state(2)
    assert not replica.failed


def test_whoever_stops_does_not_wait_for_the_log(replica: Replica) -> None:
    replica.offer(2)
    await_that(replica.journal_path.exists)
    replica.applier.stop()
    assert replica.applier.join(WITHIN_S)
    assert replica.path.read_bytes() == replica.state(1)
    assert not replica.journal_path.exists()


def test_of_images_that_came_together_those_that_the_log_took_are_applied(replica: Replica, tmp_path: Path) -> None:
    disk = QuickDisk()
    log = Log(disk, tmp_path / "mount/log", SEGMENT_BYTES)
    disk.make_directory("test", log.directory)
    log.adopt([], 1)
    second = image(replica.transactions[1], 2)
    log.append(encode_image(second.header, list(second.pages()), second.post_apply), 2, 2, second.post_apply)
    replica.offer(2)
    replica.offer(3)
    replica.applier.logged(2)
    await_that(lambda: replica.applied == [2])
    assert replica.path.read_bytes() == replica.state(2)
    assert not replica.failed
    log.close()
