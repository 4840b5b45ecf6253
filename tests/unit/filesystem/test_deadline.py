"""Fencing by deadline: no renewal, no commits, even if nobody says so."""

import errno
import time
from pathlib import Path

import pyfuse3
import pytest

from tests.support.fuseless_mount import ROOT, WAL, CountingDisk, FuselessMount, context, pages
from tests.support.sqlite_player import PAGE_SIZE


def let_the_lease_run_out(mount: FuselessMount) -> None:
    """What was confirmed ends now; the node process is stuck and does not say so."""
    mount.gate.primary_until = time.monotonic()


def renew(mount: FuselessMount) -> None:
    mount.gate.primary_until = time.monotonic() + 3600


@pytest.mark.parametrize("prepared", [False, True])
def test_a_transaction_that_outlives_the_lease_is_refused_at_its_commit(mount: FuselessMount, prepared: bool) -> None:
    renew(mount)
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.begin("a.db", 2)
    mount.write(fh, PAGE_SIZE, pages(2)[1])
    if prepared:
        mount.fsync(fh)
    let_the_lease_run_out(mount)
    unlink = mount.operations.unlink(ROOT, b"a.db-journal", context())
    assert mount.errno(unlink) == errno.EACCES
    assert mount.position() == 1
    assert mount.database("a.db").log.last_txid == 1, "what was refused must not come back"
    renew(mount)
    mount.unlink("a.db-journal")
    assert mount.position() == 2


def test_no_transaction_begins_after_the_lease(mount: FuselessMount) -> None:
    renew(mount)
    mount.commit("a.db", mount.create("a.db"), 1)
    let_the_lease_run_out(mount)
    create = mount.operations.create(ROOT, b"a.db-journal", 0o644, 0, context())
    assert mount.errno(create) == errno.EACCES


def test_a_wal_commit_after_the_lease_is_refused(mount: FuselessMount) -> None:
    renew(mount)
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: b"a" * PAGE_SIZE}, 2)
    let_the_lease_run_out(mount)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, frames, {2: b"b" * PAGE_SIZE}, 2)
    assert refused.value.errno == errno.EACCES
    assert mount.position() == 2


def test_a_lease_that_runs_out_during_the_sync_of_a_commit_refuses_it(tmp_path: Path) -> None:
    """Of a transaction whose journal was synced and whose database was not: the journal's end waits for the disk."""

    class LastSync(CountingDisk):
        def sync(self, label: str, fd: int) -> None:
            super().sync(label, fd)
            if label == "log.sync":
                let_the_lease_run_out(mount)

    mount = FuselessMount(tmp_path / "data", disk=LastSync())
    renew(mount)
    fh = mount.create("a.db")
    mount.fsync(mount.begin("a.db", 0))
    mount.write(fh, 0, pages(1, 1)[0])
    unlink = mount.operations.unlink(ROOT, b"a.db-journal", context())
    assert mount.errno(unlink) == errno.EACCES
    assert (mount.position(), mount.database("a.db").log.last_txid) == (0, 0)
    mount.close()
