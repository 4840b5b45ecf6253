"""Names in the mount: found, made, removed, replaced; and what is left of what had them."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pyfuse3
import pytest

from litefs.filesystem.inodes import NAME_TIMEOUT_S, Kind
from litefs.formats.database_name import NAME_BYTES_MAX, REPLACEMENT_PREFIX
from litefs.storage.disk import Disk
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.replacement import prepare_replacement
from litefs.storage.state import DatabaseState
from tests.support.fuseless_mount import NODE, ROOT, SQLITE, WAL, FuselessMount, context, pages
from tests.support.sqlite_player import PAGE_SIZE

COPY = os.O_WRONLY
PATIENCE_S = 20.0


class WaitingDisk(Disk):
    """A disk on which the sync of a load waits until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def sync(self, label: str, fd: int) -> None:
        if label == "load.sync":
            assert self.may_go_on.wait(PATIENCE_S)
        super().sync(label, fd)


class DiskWithoutDirectories(Disk):
    """A disk that is full for new databases when told to."""

    is_full = False

    def make_directory(self, label: str, path: Path | str) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "injected")
        super().make_directory(label, path)


def lookup(mount: FuselessMount, name: bytes) -> pyfuse3.EntryAttributes:
    return mount.do(mount.operations.lookup(ROOT, name, context()))


# ---- names ----


def test_an_absent_name_is_remembered_unless_the_server_may_make_it(mount: FuselessMount) -> None:
    for name in ("a.db", "a.db-journal", "a.db-wal", "a.db-shm"):
        assert (mount.lookup(name).st_ino, mount.lookup(name).entry_timeout) == (0, NAME_TIMEOUT_S)
    for name in (".primary", "a.db-pos", "a.db-lock", REPLACEMENT_PREFIX + "a.db"):
        assert (mount.lookup(name).st_ino, mount.lookup(name).entry_timeout) == (0, 0.0)


def test_a_file_that_could_not_be_made_leaves_no_inode(tmp_path: Path) -> None:
    disk = DiskWithoutDirectories()
    mount = FuselessMount(tmp_path, disk=disk)
    known = set(mount.inodes.by_number)
    disk.is_full = True
    for name in (b"a.db", b"a.db-journal"):
        request = mount.operations.create(ROOT, name, 0o644, SQLITE, context())
        assert mount.errno(request) == errno.ENOSPC
    assert set(mount.inodes.by_number) == known
    mount.close()


def test_every_lookup_counts_until_it_is_forgotten(mount: FuselessMount) -> None:
    mount.release(mount.create("a.db"))
    inode = mount.inodes.by_name["a.db"]
    mount.lookup("a.db")
    assert inode.lookup_n == 2
    mount.do(mount.operations.forget([(inode.number, 2)]))
    assert inode.lookup_n == 0
    assert mount.inodes.by_number[inode.number] is inode


@pytest.mark.parametrize(("name", "is_cached"), [("a.db", True), ("a.db-wal", True), ("a.db-journal", False)])
def test_the_kernel_keeps_pages_of_what_is_read_again(mount: FuselessMount, name: str, is_cached: bool) -> None:
    mount.create("a.db")
    info, _ = mount.do(mount.operations.create(ROOT, name.encode(), 0o644, SQLITE, context()))
    assert (info.keep_cache, info.direct_io) == (is_cached, not is_cached)


def test_a_listing_in_pieces_shows_what_the_kernel_forgot_between_them(
    mount: FuselessMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, str, int]] = []

    def reply(room_n: int, name: bytes, entry: pyfuse3.EntryAttributes, place: int) -> bool:
        if len(seen) < room_n:
            seen.append((place, name.decode(), entry.st_ino))
            return True
        return False

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    for name in ("b.db", "a.db"):
        mount.create(name)
    position = mount.lookup("a.db-pos").st_ino
    mount.do(mount.operations.readdir(0, 0, 2))
    mount.do(mount.operations.forget([(position, 1)]))
    mount.do(mount.operations.readdir(0, seen[-1][0], 100))
    assert [name for _, name, _ in seen] == [".lag", "b.db", "b.db-pos", "a.db", "a.db-pos"]
    assert [place for place, _, _ in seen] == sorted({place for place, _, _ in seen})


def test_a_new_file_has_the_mode_and_owner_of_its_maker(mount: FuselessMount) -> None:
    mount.create("a.db", mode=0o666, ctx=context(uid=os.getuid(), umask=0o027))
    entry = mount.lookup("a.db")
    assert entry.st_mode == stat.S_IFREG | 0o640
    assert (entry.st_uid, entry.st_size) == (os.getuid(), 0)
    assert stat.S_IMODE(mount.database("a.db").attributes().st_mode) == 0o640


@pytest.mark.parametrize("name", [".primary", ".lag", "a.db-pos", "a.db-lock", REPLACEMENT_PREFIX + "a.db"])
def test_the_servers_own_names_cannot_be_created(mount: FuselessMount, name: str) -> None:
    """EACCES and not ENOSYS, after which the kernel would never create anything again."""
    request = mount.operations.create(ROOT, name.encode(), 0o644, SQLITE, context())
    assert mount.errno(request) == errno.EACCES


def test_names_are_utf8(mount: FuselessMount) -> None:
    request = mount.operations.create(ROOT, b"\xff.db", 0o644, SQLITE, context())
    assert mount.errno(request) == errno.EILSEQ
    assert lookup(mount, b"\xff.db").st_ino == 0
    mount.create("ä.db")
    assert lookup(mount, "ä.db".encode()).st_ino != 0


def test_a_name_leaves_room_for_the_files_beside_it(mount: FuselessMount) -> None:
    long = "x" * NAME_BYTES_MAX
    mount.create(long)
    mount.create(long + "-mj012345678")
    for name in ("x" * (NAME_BYTES_MAX + 1), "ä" * 124, long + "x-journal"):
        request = mount.operations.create(ROOT, name.encode(), 0o644, SQLITE, context())
        assert mount.errno(request) == errno.ENAMETOOLONG


def test_what_is_created_beside_no_database_makes_none_that_shows(mount: FuselessMount) -> None:
    mount.create("a.db-journal")
    assert mount.lookup("a.db").st_ino == 0
    assert mount.lookup("a.db-pos").st_ino == 0
    mount.create("a.db")
    assert mount.lookup("a.db").st_ino != 0
    assert mount.lookup("a.db-pos").st_ino != 0


def test_an_inode_that_the_kernel_made_up_is_stale(mount: FuselessMount) -> None:
    assert mount.errno(mount.operations.getattr(999, context())) == errno.ESTALE
    assert mount.errno(mount.operations.open(999, SQLITE, context())) == errno.ESTALE


# ---- what a replica may ----


@pytest.mark.parametrize("name", ["a.db-journal", "a.db-wal", "b.db"])
def test_a_replica_creates_nothing_that_could_hold_a_transaction(mount: FuselessMount, name: str) -> None:
    """EACCES at the creation of a journal is "attempt to write a readonly database"."""
    mount.create("a.db")
    mount.become_replica()
    request = mount.operations.create(ROOT, name.encode(), 0o644, SQLITE, context())
    assert mount.errno(request) == errno.EACCES
    # Readers, too, ask for a WAL to write to, and go on without.
    assert mount.operations.refused_n["not-primary"] == (name != "a.db-wal")
    mount.create(name, ctx=NODE)


def test_a_wal_that_the_kernel_does_not_know_of_is_looked_up_again(mount: FuselessMount) -> None:
    """It came with a new state; the kernel forgets on ESTALE that there was none, and SQLite opens it for reading."""
    mount.make_wal_database()
    mount.become_replica()
    request = mount.operations.create(ROOT, b"a.db-wal", 0o644, SQLITE, context())
    assert mount.errno(request) == errno.ESTALE


@pytest.mark.parametrize("is_primary", [True, False], ids=["primary", "replica"])
def test_sqlites_temporary_files_are_used_without_a_name(mount: FuselessMount, is_primary: bool) -> None:
    """SQLite unlinks them as soon as they are open."""
    if not is_primary:
        mount.become_replica()
    fh = mount.create("etilqs_4a5b")
    mount.unlink("etilqs_4a5b")
    mount.write(fh, 4096, b"sorted")
    assert mount.read(fh, 4090, 100) == bytes(6) + b"sorted"
    number = mount.operations._handles[fh].inode.number
    mount.release(fh)
    mount.do(mount.operations.forget([(number, 1)]))
    assert number not in mount.inodes.by_number
    assert not mount.store.databases


def test_a_replica_creates_shared_memory_for_its_readers(mount: FuselessMount) -> None:
    mount.create("a.db")
    mount.become_replica()
    created: list[str] = []
    mount.operations.on_shm_created = created.append
    shm = mount.create("a.db-shm")
    mount.write(shm, 0, b"index")
    assert mount.read(shm, 0, 100) == b"index"
    assert created == ["a.db"]


def test_the_node_process_is_known_by_its_threads(mount: FuselessMount) -> None:
    """A request bears a thread's id; 0 comes from another pid namespace and is never the node's."""
    identities: list[int] = []
    begun = threading.Event()
    ended = threading.Event()

    def run() -> None:
        identities.append(threading.get_native_id())
        begun.set()
        ended.wait(20)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(20)
    try:
        is_node = mount.operations._is_node
        assert is_node(NODE)
        assert is_node(context(identities[0]))
        assert not is_node(context(0))
        assert not is_node(context(os.getppid()))
        mount.operations.node_pid = 0
        assert not is_node(NODE)
    finally:
        ended.set()
        thread.join()


# ---- the end of a database ----


def assert_dead(mount: FuselessMount, fh: int, number: int) -> None:
    operations = mount.operations
    assert mount.errno(operations.write(fh, 0, b"x")) == errno.ESTALE
    assert mount.errno(operations.getattr(number, context())) == errno.ESTALE
    assert mount.errno(operations.open(number, SQLITE, context())) == errno.ESTALE
    mount.fsync(fh)
    mount.release(fh)


def test_a_dropped_database_is_a_dead_inode(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    inode = mount.inodes.by_name["a.db"]
    inode.lookup_n += 1
    mount.unlink("a.db")
    assert (mount.position(), mount.database("a.db").page_n) == (2, 0)
    assert mount.invalidated == [inode]
    assert mount.lookup("a.db").st_ino == 0
    assert mount.errno(mount.operations.read(fh, 0, 10)) == errno.ESTALE
    assert_dead(mount, fh, inode.number)


def test_files_that_come_and_go_leave_nothing(mount: FuselessMount) -> None:
    def sizes() -> tuple[int, ...]:
        on_disk = len(os.listdir(mount.data_dir.path / "dbs"))
        return len(mount.inodes.by_number), len(mount.store.databases), len(os.listdir("/proc/self/fd")), on_disk

    before = sizes()
    for number in range(5):
        name = f"{number}.tmp"
        mount.release(mount.create(name))
        numbers = [
            mount.inodes.by_name[name].number,
            *(mount.lookup(name + suffix).st_ino for suffix in ("-pos", "-lock")),
        ]
        mount.unlink(name)
        mount.do(mount.operations.forget([(inode, 1) for inode in numbers]))
    assert sizes() == before


def test_a_file_that_goes_before_its_journal_leaves_the_journal_until_the_name_is_used_again(
    mount: FuselessMount,
) -> None:
    mount.release(mount.create("a.db"))
    mount.begin("a.db", 0)
    mount.unlink("a.db")
    assert mount.lookup("a.db").st_ino == 0
    assert mount.lookup("a.db-journal").st_ino
    fh = mount.create("a.db")
    assert mount.lookup("a.db-journal").st_ino == 0
    mount.commit("a.db", fh, 1)
    assert mount.position() == 1


def test_a_replica_drops_nothing(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.become_replica()
    assert mount.errno(mount.operations.unlink(ROOT, b"a.db", context())) == errno.EACCES
    assert mount.content() == b"".join(pages(1))


def test_a_database_made_anew_goes_on_behind_the_old_position(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    old = mount.inodes.by_name["a.db"].number
    mount.unlink("a.db")
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 7, 3)
    assert mount.inodes.by_name["a.db"].number != old
    assert mount.position() == 3
    assert mount.content() == b"".join(pages(7, 3))


def test_the_files_that_came_before_a_database_belong_to_it(mount: FuselessMount) -> None:
    mount.begin("a.db", 0)
    mount.create("a.db-shm")
    wal = mount.create("a.db-wal")
    fh = mount.create("a.db")
    mount.unlink("a.db-journal")
    mount.commit("a.db", fh, 5, wal=True)
    mount.wal_commit(wal, WAL, 0, {2: b"z" * PAGE_SIZE}, 2)
    assert mount.position() == 2
    assert mount.inodes.by_name["a.db-shm"].served is mount.store.databases["a.db"]


@pytest.mark.parametrize("first", ["a.db", "a.db-shm", "a.db-journal"])
def test_the_files_beside_a_database_that_was_dropped_are_not_those_of_the_next_one(
    mount: FuselessMount, first: str
) -> None:
    """As when a backup is put in the place of a database that an application has open: `rm` and `cp`.

    SQLite would take the frames of the old WAL for pages of the new database, and no replica would see them.
    """
    _, wal = mount.make_wal_database()
    shm = mount.create("a.db-shm")
    numbers = [mount.lookup(f"a.db-{suffix}").st_ino for suffix in ("wal", "shm")]
    frames = mount.wal_commit(wal, WAL, 0, {2: b"x" * PAGE_SIZE}, 2)
    mount.unlink("a.db")
    mount.release(mount.create(first))
    if first == "a.db-journal":
        mount.unlink(first)
    fh = mount.open("a.db") if first == "a.db" else mount.create("a.db")
    mount.commit("a.db", fh, 5)
    position = mount.position()
    assert mount.lookup("a.db-wal").st_ino == 0
    assert mount.lookup("a.db-shm").st_ino != numbers[1]
    for number in numbers:
        assert mount.errno(mount.operations.open(number, SQLITE, context())) == errno.ESTALE
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, frames, {2: b"y" * PAGE_SIZE}, 2)
    assert refused.value.errno == errno.ESTALE
    assert mount.read(shm, 0, 1) == b"", "who has it mapped must not die"
    assert (mount.position(), mount.content()) == (position, b"".join(pages(5)))


def test_a_connection_that_outlives_its_database_commits_nothing_more(mount: FuselessMount) -> None:
    """Its WAL still has a name; what is written there belongs to a database that is gone."""
    _, wal = mount.make_wal_database()
    frames = mount.wal_commit(wal, WAL, 0, {2: b"x" * PAGE_SIZE}, 2)
    mount.unlink("a.db")
    after = mount.position()
    with pytest.raises(pyfuse3.FUSEError) as refused:
        mount.wal_commit(wal, WAL, frames, {2: b"y" * PAGE_SIZE}, 2)
    assert refused.value.errno == errno.ESTALE
    assert (mount.position(), mount.database("a.db").page_n) == (after, 0)
    mount.unlink("a.db-wal")


def test_a_database_goes_with_the_transaction_that_its_application_did_not_end(mount: FuselessMount) -> None:
    """Killed between the sync of the database and the end of the journal: the image is in the log by then."""
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    mount.begin("a.db", 2)
    mount.write(fh, 0, pages(2)[0])
    mount.fsync(fh)
    mount.unlink("a.db")
    assert (mount.position(), mount.database("a.db").page_n) == (2, 0)
    mount.unlink("a.db-journal")
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 3)
    assert (mount.position(), mount.content()) == (3, b"".join(pages(3)))


def test_a_drop_waits_for_the_threads_of_a_load(tmp_path: Path) -> None:
    """They write into the directory that the next database of this name gets: seen as that one's corruption."""
    mount = FuselessMount(tmp_path, disk=(disk := WaitingDisk()))
    fh = mount.create("a.db", COPY)
    mount.write(fh, 0, b"".join(pages(1)))
    load = mount.store.databases["a.db"].load
    assert load is not None
    refused: list[int] = []

    async def close() -> None:
        try:
            await mount.operations.release(fh)
        except pyfuse3.FUSEError as error:
            refused.append(error.errno)

    async def drop() -> bool:
        mount.loop.spawn(close(), "close")
        while not load.is_committing:
            await mount.loop.yield_now()
        disk.may_go_on.set()
        await mount.operations.unlink(ROOT, b"a.db", context())
        return load.is_committing

    assert not mount.do(drop())
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 2)
    assert mount.content() == b"".join(pages(2))
    assert not mount.stopped
    mount.close()


@pytest.mark.parametrize("flags", [COPY, COPY | os.O_TRUNC])
def test_a_file_is_written_again_while_it_is_just_becoming_a_database(tmp_path: Path, flags: int) -> None:
    mount = FuselessMount(tmp_path, disk=(disk := WaitingDisk()))
    fh = mount.create("a.db", COPY)
    mount.write(fh, 0, b"".join(pages(1)))

    async def copy_again() -> int:
        mount.loop.spawn(mount.operations.release(fh), "close")
        await mount.loop.yield_now()
        disk.may_go_on.set()
        info = await mount.operations.open(mount.inodes.by_name["a.db"].number, flags, context())
        await mount.operations.write(info.fh, 0, b"".join(pages(2, 3)))
        await mount.operations.fsync(info.fh, True)
        return info.fh

    again = mount.do(copy_again())
    assert mount.position() == 2
    mount.release(again)
    assert (mount.position(), mount.content()) == (2, b"".join(pages(2, 3)))
    mount.close()


def replace(mount: FuselessMount, name: str, counter: int, ctx: Any, *, wal: bool = False) -> Any:
    """A new state, prepared as the node process does; returns the request that flips it in."""
    directory = mount.store.directory(name)
    incoming = IncomingDatabase(directory, PAGE_SIZE, 2)
    incoming.write_pages(1, b"".join(pages(counter, wal=wal)))
    checksum = incoming.finish()
    txid = mount.position(name) + 1
    state = DatabaseState(
        base_txid=txid, checksum=checksum, page_size=PAGE_SIZE, page_n=2, timestamp_ms=1, incoming=incoming.name
    )
    prepare_replacement(mount.disk, directory, state)
    waiting = (REPLACEMENT_PREFIX + name).encode()
    mount.inodes.add(Kind.REPLACEMENT, waiting.decode(), 0o600, 0, 0)
    return mount.operations.rename(ROOT, waiting, ROOT, name.encode(), 0, ctx)


def test_a_replacement_is_flipped_in_by_the_rename_of_the_node_process(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    old = mount.inodes.by_name["a.db"]
    old.lookup_n += 1
    mount.do(replace(mount, "a.db", 9, NODE))
    assert old in mount.invalidated
    assert all(inode.is_dead for inode in mount.invalidated)
    assert mount.inodes.by_name["a.db"] is not old
    assert REPLACEMENT_PREFIX + "a.db" not in mount.inodes.by_name
    assert mount.content() == b"".join(pages(9))
    assert mount.position() == 2
    assert mount.do(mount.operations.read(fh, 0, 1 << 20)) == b"".join(pages(1)), "a mapping of it must not die"
    kept = old.kept
    assert kept is not None
    assert_dead(mount, fh, old.number)
    assert old.kept is None, "the old file stays open as long as its handles"
    fh = mount.open("a.db")
    mount.commit("a.db", fh, 10)
    assert mount.content() == b"".join(pages(10))


def test_nobody_else_renames_anything(mount: FuselessMount) -> None:
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    assert mount.errno(replace(mount, "a.db", 9, context(os.getppid()))) == errno.EPERM
    rename = mount.operations.rename
    waiting = (REPLACEMENT_PREFIX + "a.db").encode()
    for source, target in ((b"a.db", b"b.db-wal"), (b"a.db-wal", b"b.db-wal"), (waiting, b"b.db"), (b"a.db", b".lag")):
        assert mount.errno(rename(ROOT, source, ROOT, target, 0, NODE)) == errno.EPERM
    assert mount.errno(rename(ROOT, b"a.db", ROOT, b"b.db", 0, context())) == errno.EXDEV
    mount.become_replica()
    assert mount.errno(rename(ROOT, b"a.db", ROOT, b"b.db", 0, context())) == errno.EACCES
    assert mount.content() == b"".join(pages(1))


def test_the_node_process_flips_in_a_state_in_wal_mode_with_a_wal(mount: FuselessMount) -> None:
    """Readers of a replica cannot make the WAL themselves, and without one not even SELECT works."""
    fh = mount.create("a.db")
    mount.commit("a.db", fh, 1)
    request = replace(mount, "a.db", 9, NODE, wal=True)
    mount.become_replica()
    mount.do(request)
    wal = mount.open("a.db-wal", ctx=NODE)
    assert mount.lookup("a.db-wal").st_size == 0
    mount.gate.primary_until = float("inf")
    mount.wal_commit(wal, WAL, 0, {2: b"x" * PAGE_SIZE}, 2)
    assert mount.position() == 3
