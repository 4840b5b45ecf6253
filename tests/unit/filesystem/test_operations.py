"""What each request of the kernel does, and which errno it is refused with; without a kernel."""

import errno
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fuseless_mount import ROOT, FuselessMount, context, pages

# ---- attributes ----


def test_owner_and_times_can_be_set(mount: FuselessMount) -> None:
    mount.create("a.db-shm")
    changes = {"update_uid": True, "st_uid": 7, "update_gid": True, "st_gid": 8, "update_atime": True, "st_atime_ns": 9}
    entry = mount.do(mount.set("a.db-shm", **changes))
    assert (entry.st_uid, entry.st_gid, entry.st_atime_ns) == (7, 8, 9)
    mount.do(mount.set("a.db-shm", update_mtime=True, st_mtime_ns=10))
    assert mount.lookup("a.db-shm").st_mtime_ns == 10
    assert (mount.lookup("a.db-shm").st_uid, mount.lookup("a.db-shm").st_gid) == (7, 8)


def test_a_write_is_the_time_of_change(mount: FuselessMount) -> None:
    fh = mount.create("a.db-shm")
    mount.do(mount.set("a.db-shm", update_mtime=True, st_mtime_ns=10))
    before = time.time_ns()
    mount.write(fh, 0, b"x")
    entry = mount.lookup("a.db-shm")
    assert entry.st_mtime_ns >= before
    assert entry.st_ctime_ns >= before


def test_a_name_that_comes_or_goes_changes_the_directory(mount: FuselessMount) -> None:
    root = mount.inodes.root
    for change in (lambda: mount.create("a.db"), lambda: mount.unlink("a.db")):
        root.mtime_ns = root.ctime_ns = 10
        before = time.time_ns()
        change()
        assert root.mtime_ns >= before
        assert root.ctime_ns >= before


def test_times_that_are_set_before_a_copied_file_is_closed_stay(tmp_path: Path) -> None:
    mount = FuselessMount(tmp_path)
    fh = mount.create("a.db", os.O_WRONLY)
    mount.write(fh, 0, b"".join(pages(1)))
    mount.do(mount.set("a.db", fh, update_mtime=True, st_mtime_ns=123_000))
    mount.release(fh)
    assert mount.position() == 1
    assert mount.lookup("a.db").st_mtime_ns == 123_000
    mount.close()
    mount = FuselessMount(tmp_path)
    assert mount.lookup("a.db").st_mtime_ns == 123_000
    mount.close()


def test_attributes_survive_a_restart(tmp_path: Path) -> None:
    mount = FuselessMount(tmp_path)
    mount.create("a.db")
    changes = {"update_mode": True, "st_mode": stat.S_IFREG | 0o600, "update_mtime": True, "st_mtime_ns": 123_000}
    mount.do(mount.set("a.db", **changes))
    number = mount.lookup("a.db").st_ino
    mount.close()
    mount = FuselessMount(tmp_path)
    entry = mount.lookup("a.db")
    assert (stat.S_IMODE(entry.st_mode), entry.st_mtime_ns) == (0o600, 123_000)
    assert entry.st_ino != number
    mount.close()


def test_a_file_cannot_change_its_type(mount: FuselessMount) -> None:
    mount.create("a.db")
    mount.do(mount.set("a.db", update_mode=True, st_mode=stat.S_IFDIR | 0o755))
    assert mount.lookup("a.db").st_mode == stat.S_IFREG | 0o755


# ---- special files ----


def special(mount: FuselessMount, name: str, flags: int = os.O_RDONLY) -> int:
    entry = mount.lookup(name)
    return mount.do(mount.operations.open(entry.st_ino, flags, context())).fh


def test_the_position_is_read_anew_each_time(mount: FuselessMount) -> None:
    database = mount.create("a.db")
    fh = special(mount, "a.db-pos")
    for counter in (1, 2):
        mount.commit("a.db", database, counter)
        assert mount.read(fh, 0, 100).startswith(b"%016x/" % counter)
    assert mount.lookup("a.db-pos").st_size == 34
    assert mount.read(fh, 30, 100) == mount.read(fh, 0, 100)[30:]


def test_the_lag_is_frozen_for_each_handle(mount: FuselessMount) -> None:
    fh = special(mount, ".lag")
    assert mount.read(fh, 0, 100) == b"+000000000\n"
    mount.view.is_primary, mount.view.primary_timestamp_ms = False, -1
    assert mount.read(fh, 0, 100) == b"+000000000\n"
    assert mount.read(special(mount, ".lag"), 0, 100) == b"+2147483647"


def test_the_primary_file_is_there_while_a_primary_is_known(mount: FuselessMount) -> None:
    assert mount.lookup(".primary").st_ino == 0
    mount.view.primary = "node-1"
    assert mount.read(special(mount, ".primary"), 0, 100) == b"node-1\n"
    mount.view.primary = ""
    assert mount.lookup(".primary").st_ino == 0


@pytest.mark.parametrize("name", [".lag", ".primary", "a.db-pos"])
def test_what_the_server_writes_nobody_else_does(mount: FuselessMount, name: str) -> None:
    mount.create("a.db")
    mount.view.primary = "node-1"
    number = mount.lookup(name).st_ino
    assert mount.errno(mount.operations.open(number, os.O_RDWR, context())) == errno.EACCES
    unlink = mount.operations.unlink(ROOT, name.encode(), context())
    assert mount.errno(unlink) == errno.EACCES


def test_the_lock_file_opens_for_writing_and_takes_no_bytes(mount: FuselessMount) -> None:
    mount.create("a.db")
    fh = special(mount, "a.db-lock", os.O_RDWR)
    assert mount.read(fh, 0, 10) == b""
    assert mount.errno(mount.operations.write(fh, 0, b"x")) == errno.EIO


# ---- the rest ----


def test_what_is_never_wanted_again_is_answered_so_once(mount: FuselessMount) -> None:
    operations = mount.operations
    fh = mount.create("a.db")
    for request in (
        operations.flush(fh),
        operations.opendir(ROOT, context()),
        operations.fsyncdir(0, True),
        operations.access(ROOT, 4, context()),
        operations.getxattr(ROOT, b"security.capability", context()),
    ):
        assert mount.errno(request) == errno.ENOSYS


def test_a_kernel_that_cannot_list_what_it_did_not_open_opens_it(mount: FuselessMount) -> None:
    mount.operations.lists_without_opendir = False
    assert mount.do(mount.operations.opendir(ROOT, context())) == 0


def test_directories_are_refused(mount: FuselessMount, caplog: pytest.LogCaptureFixture) -> None:
    request = mount.operations.mkdir(ROOT, b"a.db.lock", 0o755, context())
    assert mount.errno(request) == errno.EPERM
    assert "dot-file locking" in caplog.text


def test_links_and_devices_are_refused_as_by_file_systems_without_them(mount: FuselessMount) -> None:
    mount.create("a.db")
    operations = mount.operations
    number = mount.inodes.by_name["a.db"].number
    for request in (
        operations.symlink(ROOT, b"b.db", b"a.db", context()),
        operations.link(number, ROOT, b"b.db", context()),
        operations.mknod(ROOT, b"pipe", stat.S_IFIFO | 0o600, 0, context()),
    ):
        assert mount.errno(request) == errno.EPERM


def test_unlinking_what_is_not_there_is_enoent(mount: FuselessMount) -> None:
    assert mount.errno(mount.operations.unlink(ROOT, b"none.db", context())) == errno.ENOENT


def test_the_space_of_the_mount_is_that_of_the_data_directory(mount: FuselessMount) -> None:
    expected = os.statvfs(mount.data_dir.path)
    found = mount.do(mount.operations.statfs(context()))
    assert (found.f_bsize, found.f_blocks, found.f_namemax) == (
        expected.f_bsize,
        expected.f_blocks,
        expected.f_namemax,
    )


@pytest.mark.parametrize("operation", ["read", "write", "fsync", "release"])
def test_a_mistake_of_ours_is_an_io_error_with_a_traceback(
    mount: FuselessMount, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception but FUSEError would end the server."""
    arguments: dict[str, tuple[Any, ...]] = {"read": (999, 0, 1), "write": (999, 0, b"x"), "fsync": (999, True)}
    request = getattr(mount.operations, operation)(*arguments.get(operation, (999,)))
    assert mount.errno(request) == errno.EIO
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
