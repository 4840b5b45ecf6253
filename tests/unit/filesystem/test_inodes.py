import stat
from pathlib import Path

import pyfuse3
import pytest

from litefs.filesystem.inodes import (
    ATTRIBUTE_TIMEOUT_S,
    NAME_TIMEOUT_S,
    SPECIAL_KINDS,
    START_SHIFT,
    Inode,
    InodeTable,
    Kind,
    absent,
)
from litefs.storage.data_dir import DataDir
from litefs.storage.disk import Disk


def table(start: int = 1) -> InodeTable:
    return InodeTable(start, 0o777, 10, 20)


def add(inodes: InodeTable, name: str = "a.db", kind: Kind = Kind.DATABASE, *, named: bool = True) -> Inode:
    return inodes.add(kind, name, 0o644, 1, 2, named=named)


# ---- numbers ----


def test_a_number_is_not_used_twice_in_one_life() -> None:
    inodes = table()
    seen = {pyfuse3.ROOT_INODE}
    for _ in range(100):
        inode = add(inodes)
        assert inode.number not in seen
        seen.add(inode.number)
        inodes.unname(inode)
        assert inode.number not in inodes.by_number


def test_a_number_is_not_used_twice_across_starts(tmp_path: Path) -> None:
    """A connection that outlived a server must see that the file under its path is another one."""
    seen: set[int] = set()
    for _ in range(3):
        data_dir = DataDir(tmp_path, Disk())
        inodes = table(data_dir.start)
        numbers = {add(inodes, str(index)).number for index in range(5)}
        assert not numbers & seen
        seen |= numbers
        data_dir.close()


def test_a_life_has_room_for_its_numbers() -> None:
    inodes = table(1)
    assert add(inodes).number >> START_SHIFT == 1
    assert table(2)._next > 2 << START_SHIFT
    # An inode number is 64 bits in the protocol: 2^23 starts fit with the sign bit to spare.
    assert add(table((1 << 23) - 1)).number < 1 << 63


def test_special_files_keep_their_numbers_as_long_as_the_kernel_knows_them() -> None:
    inodes = table()
    lag = inodes.special(Kind.LAG, ".lag")
    lag.lookup_n = 2
    inodes.forget(lag.number, 1)
    assert inodes.special(Kind.LAG, ".lag") is lag
    assert inodes.by_number[lag.number] is lag
    assert inodes.special(Kind.PRIMARY, ".primary").number != lag.number
    assert ".lag" not in inodes.by_name
    inodes.forget(lag.number, 1)
    assert lag.number not in inodes.by_number
    assert inodes.special(Kind.LAG, ".lag").number != lag.number


# ---- how long an inode lives ----


def test_a_named_inode_outlives_every_reference() -> None:
    inodes = table()
    inode = add(inodes)
    inode.lookup_n = 2
    inodes.forget(inode.number, 2)
    assert inodes.by_number[inode.number] is inode


def test_an_unlinked_inode_goes_with_the_last_reference_of_the_kernel() -> None:
    inodes = table()
    inode = add(inodes)
    inode.lookup_n = 3
    inodes.unname(inode)
    assert "a.db" not in inodes.by_name
    inodes.forget(inode.number, 2)
    assert inode.number in inodes.by_number
    inodes.forget(inode.number, 1)
    assert inode.number not in inodes.by_number


def test_an_unlinked_inode_goes_with_the_last_handle() -> None:
    inodes = table()
    inode = add(inodes)
    inode.lookup_n, inode.handle_n = 1, 2
    inodes.unname(inode)
    inodes.forget(inode.number, 1)
    inodes.released(inode)
    assert inode.number in inodes.by_number
    inodes.released(inode)
    assert inode.number not in inodes.by_number


def test_unlinking_leaves_a_newer_file_of_the_name_alone() -> None:
    inodes = table()
    old = add(inodes)
    old.handle_n = 1
    inodes.unname(old)
    new = add(inodes)
    inodes.unname(old)
    inodes.released(old)
    assert inodes.by_name["a.db"] is new
    assert inodes.by_number[new.number] is new


def test_forgetting_an_unknown_number_is_nothing() -> None:
    inodes = table()
    before = dict(inodes.by_number)
    inodes.forget(12345, 1)
    assert inodes.by_number == before


def test_the_root_is_never_dropped() -> None:
    inodes = table()
    inodes.forget(pyfuse3.ROOT_INODE, 1000)
    assert inodes.by_number[pyfuse3.ROOT_INODE] is inodes.root


# ---- attributes ----


def test_databases_are_cached_by_name_for_an_hour_and_by_attribute_for_a_second() -> None:
    entry = add(table()).entry(8192)
    assert (entry.entry_timeout, entry.attr_timeout) == (NAME_TIMEOUT_S, ATTRIBUTE_TIMEOUT_S) == (3600.0, 1.0)


@pytest.mark.parametrize("kind", sorted(SPECIAL_KINDS, key=str))
def test_nothing_is_cached_of_what_the_server_changes_by_itself(kind: Kind) -> None:
    entry = table().special(kind, "name").entry(0)
    assert (entry.entry_timeout, entry.attr_timeout) == (0.0, 0.0)
    assert stat.S_IMODE(entry.st_mode) == 0o444


def test_attributes_follow_the_inode() -> None:
    inode = add(table())
    first = inode.entry(4096)
    assert (first.st_size, first.st_blocks, first.st_nlink) == (4096, 8, 1)
    assert first.st_mode == stat.S_IFREG | 0o644
    assert (first.st_uid, first.st_gid, first.st_ino) == (1, 2, inode.number)
    inode.mode, inode.uid, inode.mtime_ns = stat.S_IFREG | 0o600, 5, 123
    second = inode.entry(4097)
    assert (second.st_size, second.st_blocks, second.st_mode) == (4097, 9, stat.S_IFREG | 0o600)
    assert (second.st_uid, second.st_mtime_ns) == (5, 123)


def test_the_root_is_a_directory() -> None:
    entry = table().root.entry(0)
    assert stat.S_ISDIR(entry.st_mode)
    assert (entry.st_ino, entry.st_nlink, entry.st_uid, entry.st_gid) == (pyfuse3.ROOT_INODE, 2, 10, 20)


def test_mode_bits_beyond_the_permissions_are_not_taken_from_the_caller() -> None:
    inode = table().add(Kind.DATABASE, "a.db", stat.S_IFDIR | 0o644, 0, 0)
    assert inode.mode == stat.S_IFREG | 0o644


def test_an_absent_name_has_no_inode() -> None:
    entry = absent(3.0)
    assert (entry.st_ino, entry.entry_timeout) == (0, 3.0)
