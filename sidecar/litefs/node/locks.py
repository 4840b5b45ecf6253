"""SQLite's lock bytes, taken as open-file-description locks.

Strategy: the kernel keeps `fcntl` locks on the inode, so a lock taken here conflicts with SQLite's POSIX
locks in every other process of this machine. Open-file-description locks belong to the descriptor and not to
the process: closing some other descriptor of the same file does not drop them.

    database file   0x40000000  PENDING   (1 byte)    a writer waits: no new readers
                    0x40000001  RESERVED  (1 byte)    a writer prepares
                    0x40000002  SHARED    (510 bytes) shared: reading; exclusive: writing
    -shm file       120 WRITE, 121 CKPT, 122 RECOVER, 123..127 READ0..READ4, 128 DMS (the file is in use)

Source: SQLite 3.40, os.h (PENDING_BYTE and on), wal.c (WAL_WRITE_LOCK and on), os_unix.c (UNIX_SHM_DMS).
"""

import errno
import fcntl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litefs.errors import LockHeldError
from litefs.formats.wal_index import LOCK_CHECKPOINT, LOCK_DMS, LOCK_READ0, LOCK_WRITE, READ_MARK_N

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid; the pid must be 0 in OFD requests."""

BACKOFF_FIRST_S = 0.00005
BACKOFF_MAX_S = 0.002
"""A point read holds SHARED for microseconds; a longer holder costs at most this much latency after its release."""


class LockRange:
    """A run of lock bytes, with its three requests packed once: a lock call is then one system call and no more."""

    __slots__ = ("length", "name", "read_request", "start", "unlock_request", "write_request")

    def __init__(self, name: str, start: int, length: int = 1) -> None:
        """Args: start, length: bytes of the file, as SQLite numbers them."""
        self.name = name
        self.start = start
        self.length = length
        self.read_request = _FLOCK.pack(fcntl.F_RDLCK, 0, start, length, 0)
        self.write_request = _FLOCK.pack(fcntl.F_WRLCK, 0, start, length, 0)
        self.unlock_request = _FLOCK.pack(fcntl.F_UNLCK, 0, start, length, 0)

    def __repr__(self) -> str:
        return f"LockRange({self.name})"


PENDING = LockRange("PENDING", 0x40000000)
RESERVED = LockRange("RESERVED", 0x40000001)
SHARED = LockRange("SHARED", 0x40000002, 510)
DATABASE = LockRange("PENDING..SHARED", 0x40000000, 512)
"""All lock bytes of a database in one request: exclusive means that nobody reads, writes or is about to."""

WRITE = LockRange("WAL_WRITE", LOCK_WRITE)
CKPT = LockRange("WAL_CKPT", LOCK_CHECKPOINT)
CKPT_RECOVER = LockRange("WAL_CKPT..RECOVER", LOCK_CHECKPOINT, 2)
READ = tuple(LockRange(f"WAL_READ{mark}", LOCK_READ0 + mark) for mark in range(READ_MARK_N))
READ_WAL = LockRange("WAL_READ1..4", LOCK_READ0 + 1, READ_MARK_N - 1)
"""The marks of readers that use frames of the WAL; a READ0 reader looks at the database file only."""
DMS = LockRange("DMS", LOCK_DMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """Who stands in the way.

    Attributes:
        pid: process id; -1 for an open-file-description lock, 0 for a process outside our pid namespace.
        command: its name, empty when it cannot be told.
    """

    pid: int
    command: str

    def __str__(self) -> str:
        if self.pid > 0:
            return f"process {self.pid} ({self.command or '?'})"
        return "another descriptor of LiteFS" if self.pid < 0 else "a process of another container"


def try_read(fd: int, lock_range: LockRange) -> bool:
    """Takes a shared lock if nobody is in the way. Returns whether it is held now."""
    return _try(fd, lock_range.read_request)


def try_write(fd: int, lock_range: LockRange) -> bool:
    """Takes an exclusive lock, or turns a shared one into it, if nobody is in the way."""
    return _try(fd, lock_range.write_request)


def unlock(fd: int, lock_range: LockRange) -> None:
    """Releases whatever this descriptor holds in the range."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock_range.unlock_request)


def read(fd: int, lock_range: LockRange, timeout_s: float) -> None:
    """Takes a shared lock.

    Raises:
        LockHeldError: somebody held an exclusive one for `timeout_s` seconds.
    """
    _wait(fd, lock_range, try_read, timeout_s)


def write(fd: int, lock_range: LockRange, timeout_s: float) -> None:
    """Takes an exclusive lock.

    Raises:
        LockHeldError: somebody else held a lock there for `timeout_s` seconds.
    """
    _wait(fd, lock_range, try_write, timeout_s)


def holder(fd: int, lock_range: LockRange, *, exclusive: bool = True) -> LockHolder | None:
    """Returns one of those in the way of an exclusive lock of ours (of a shared one, if not `exclusive`), or None."""
    request = lock_range.write_request if exclusive else lock_range.read_request
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request))
    if kind == fcntl.F_UNLCK:
        return None
    try:
        command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() if pid > 0 else ""
    except OSError:
        command = ""  # it ended meanwhile
    return LockHolder(pid=pid, command=command)


def held_kind(fd: int, lock_range: LockRange) -> int:
    """Returns the kind of lock others hold in the range: `fcntl.F_UNLCK`, `F_RDLCK` or `F_WRLCK`."""
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock_range.write_request))[0]
    return kind


def _try(fd: int, request: bytes) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _wait(fd: int, lock_range: LockRange, attempt: Callable[[int, LockRange], bool], timeout_s: float) -> None:
    # F_OFD_SETLKW would wake sooner, but it cannot be bounded without signals.
    if attempt(fd, lock_range):
        return
    deadline = time.monotonic() + timeout_s
    delay = BACKOFF_FIRST_S
    while time.monotonic() < deadline:
        time.sleep(delay)
        if attempt(fd, lock_range):
            return
        delay = min(delay * 1.5, BACKOFF_MAX_S)
    in_the_way = holder(fd, lock_range, exclusive=attempt is try_write)
    raise LockHeldError(f"{lock_range.name} is held by {in_the_way or 'somebody who just let go'}")
