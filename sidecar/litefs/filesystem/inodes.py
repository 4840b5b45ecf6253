"""Inodes: one object per file that the kernel may know, under numbers that are never used twice.

Strategy: the high bits of a number are the start counter of the data directory, the low bits count up.
SQLite compares the inode of a path with the one of its descriptor to notice that its database was
replaced; a number that came back, within a mount or after a restart, would defeat that and lose commits.
"""

import os
import stat
import time
from contextlib import ExitStack
from enum import Enum

import pyfuse3

from litefs.storage.scratch import ScratchFile
from litefs.storage.served import ServedDatabase

START_SHIFT = 40
"""2^40 files in one life of the server, 2^23 lives."""

NAME_TIMEOUT_S = 3600.0
"""Names appear and vanish through the mount only, so the kernel may keep them, present and absent alike."""

ATTRIBUTE_TIMEOUT_S = 1.0
"""As fast as an hour, and it bounds stale reads of connections that outlived a server.

Except for a WAL, whose attributes are asked for each time. SQLite asks when it rebuilds a wal-index and at no other
time that matters: a connection whose wal-index was voided because its server died must fail then. With attributes
that are still believed it would rebuild the wal-index from the dead mount's cached pages, and read old rows for ever.
"""


class Kind(Enum):
    """What a file is to us."""

    ROOT = "root"
    DATABASE = "database"
    JOURNAL = "journal"
    WAL = "wal"
    SHM = "shm"
    SUPER_JOURNAL = "super-journal"
    TEMPORARY = "temporary"
    POS = "pos"
    LOCK = "lock"
    PRIMARY = ".primary"
    LAG = ".lag"
    REPLACEMENT = "replacement"


SPECIAL_KINDS = frozenset({Kind.POS, Kind.LOCK, Kind.PRIMARY, Kind.LAG})
"""Files that the server changes by itself: nothing about them is cached."""

UNCACHED_KINDS = SPECIAL_KINDS | {Kind.JOURNAL}
"""What is read and written past the kernel's page cache.

A journal, because it is written once and hardly ever read, in records that begin at odd offsets: where the cache has
not read the page that a record begins in, it makes two requests of the record.
"""

UNREPLICATED_KINDS = frozenset({Kind.SHM, Kind.TEMPORARY})
"""Anybody makes them, on a replica, too."""

TRANSACTION_KINDS = frozenset({Kind.JOURNAL, Kind.WAL})
"""They die with a database that is replaced, or with their names if it was dropped. Not `-shm`: whoever has it mapped
would be killed by SIGBUS."""


class Inode:
    """One file. `served` is the database it belongs to, `scratch` its content if that is scratch."""

    __slots__ = (
        "_entry", "atime_ns", "ctime_ns", "gid", "handle_n", "kept", "kind", "lookup_n", "mode", "mtime_ns", "name",
        "number", "scratch", "served", "uid", "unlinked",
    )  # fmt: skip

    def __init__(self, number: int, kind: Kind, name: str, mode: int, uid: int, gid: int) -> None:
        """Args: number: from `InodeTable`; name: in its directory; mode: with the file type."""
        self.number = number
        self.kind = kind
        self.name = name
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.atime_ns = self.mtime_ns = self.ctime_ns = time.time_ns()
        self.served: ServedDatabase | None = None
        self.scratch: ScratchFile | None = None
        self.lookup_n = 0
        self.handle_n = 0
        self.unlinked = False
        self.kept: ExitStack | None = None
        self._entry: pyfuse3.EntryAttributes | None = None

    @property
    def is_dead(self) -> bool:
        """Dropped or replaced, with the database behind it: every access but reads of its pages answers ESTALE."""
        served = self.served
        if served is None or not served.dead:
            return False
        return self.kind is Kind.DATABASE or ((served.is_replaced or self.unlinked) and self.kind in TRANSACTION_KINDS)

    def note_change(self) -> None:
        """The content changed now. Backup programs go by the time of change as much as by that of modification."""
        self.mtime_ns = self.ctime_ns = time.time_ns()

    def become_database(self, name: str, served: ServedDatabase) -> None:
        """A replacement is renamed. Until then it was empty, which the kernel was not to remember."""
        self.name, self.kind, self.served = name, Kind.DATABASE, served
        self._entry = None

    def entry(self, size: int) -> pyfuse3.EntryAttributes:
        """Returns the attributes as the kernel wants them. `size` in bytes."""
        entry = self._entry
        if entry is None:
            entry = self._entry = pyfuse3.EntryAttributes()
            entry.st_ino = self.number
            special = self.kind in SPECIAL_KINDS or self.kind is Kind.REPLACEMENT
            entry.entry_timeout = 0.0 if special else NAME_TIMEOUT_S
            entry.attr_timeout = 0.0 if special or self.kind is Kind.WAL else ATTRIBUTE_TIMEOUT_S
            entry.st_nlink = 2 if self.kind is Kind.ROOT else 1
        entry.st_mode, entry.st_uid, entry.st_gid = self.mode, self.uid, self.gid
        entry.st_size = size
        entry.st_blocks = (size + 511) >> 9
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = self.atime_ns, self.mtime_ns, self.ctime_ns
        return entry


def absent(timeout_s: float) -> pyfuse3.EntryAttributes:
    """Returns a negative entry: the kernel believes for `timeout_s` that the name does not exist."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = timeout_s
    return entry


class InodeTable:
    """All inodes that have a name or that the kernel still knows, and the names in the root."""

    def __init__(self, start: int, mode: int, uid: int, gid: int) -> None:
        """Args: start: the data directory's start counter; mode, uid, gid: of the root directory."""
        self._next = (start << START_SHIFT) + 1
        self.root = Inode(pyfuse3.ROOT_INODE, Kind.ROOT, "", stat.S_IFDIR | mode, uid, gid)
        self.by_number: dict[int, Inode] = {pyfuse3.ROOT_INODE: self.root}
        self.by_name: dict[str, Inode] = {}
        self._specials: dict[str, Inode] = {}

    def add(self, kind: Kind, name: str, mode: int, uid: int, gid: int, *, named: bool = True) -> Inode:
        """Makes an inode with a fresh number. `named`: it shows under its name from now on."""
        inode = Inode(self._next, kind, name, stat.S_IFREG | (mode & 0o7777), uid, gid)
        self._next += 1
        self.by_number[inode.number] = inode
        if named:
            self.give_name(inode)
        return inode

    def give_name(self, inode: Inode) -> None:
        """Shows an inode under its name."""
        self.by_name[inode.name] = inode
        self.root.note_change()

    def add_database(self, name: str, served: ServedDatabase, *, named: bool = True) -> Inode:
        """Makes the inode of a database that lies in the data directory, with the mode, owner and times kept there."""
        stat_result: os.stat_result = served.database.attributes()
        inode = self.add(Kind.DATABASE, name, stat_result.st_mode, stat_result.st_uid, stat_result.st_gid, named=named)
        inode.atime_ns, inode.mtime_ns = stat_result.st_atime_ns, stat_result.st_mtime_ns
        inode.ctime_ns = stat_result.st_ctime_ns
        inode.served = served
        return inode

    def special(self, kind: Kind, name: str) -> Inode:
        """Returns the inode of a file that the server writes itself, the same one as long as the kernel knows it."""
        inode = self._specials.get(name)
        if inode is None:
            inode = self._specials[name] = self.add(kind, name, 0o444, os.getuid(), os.getgid(), named=False)
        return inode

    def unname(self, inode: Inode, kept: ExitStack | None = None) -> None:
        """The name is gone; handles may still be open.

        Args:
            kept: what they need, closed with the last of them.
        """
        inode.unlinked = True
        inode.kept = kept
        if self.by_name.get(inode.name) is inode:
            del self.by_name[inode.name]
            self.root.note_change()
        self._drop_if_unused(inode)

    def forget(self, number: int, lookup_n: int) -> None:
        """The kernel gives back `lookup_n` references."""
        inode = self.by_number.get(number)
        if inode is not None:
            inode.lookup_n -= lookup_n
            self._drop_if_unused(inode)

    def released(self, inode: Inode) -> None:
        """A handle was closed."""
        inode.handle_n -= 1
        self._drop_if_unused(inode)

    def _drop_if_unused(self, inode: Inode) -> None:
        named = self.by_name.get(inode.name) is inode or inode.kind is Kind.ROOT
        if inode.kept is not None and inode.handle_n <= 0:
            inode.kept.close()
            inode.kept = None
        if not named and inode.lookup_n <= 0 and inode.handle_n <= 0:
            self.by_number.pop(inode.number, None)
            if self._specials.get(inode.name) is inode:
                del self._specials[inode.name]
