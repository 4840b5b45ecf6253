"""The only door to files: every call that can fail carries the label of its call site.

Strategy: a label names the step, not the function (`log.append`, `base.write`, `state.rename`), so a
test can fail or crash exactly one step, and a delay can be put on exactly one. `disk_from_environment`
gives the plain door, or one with the faults of `LITEFS_FAULTS` for benchmarks and tests of whole processes.

Guarantees: `write` writes everything or raises. Nothing here retries, and nothing swallows an error.
"""

import errno
import fnmatch
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

Buffer = bytes | bytearray | memoryview

FREED_AT_ONCE_BYTES = 4 << 20
"""ext4 takes some 0.2 ms for each MiB that it frees (2026-11), so a gigabyte would be a fifth of a second."""

_KNOWS_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR})
"""Of NFS, of overlayfs before Linux 6.1, of most of FUSE."""

_COPY_CHUNK_BYTES = 1 << 20
_STAT_BLOCK_BYTES = 512


class Disk:
    """Plain file access. One instance serves all threads; it keeps no state."""

    def open(self, label: str, path: Path | str, flags: int, mode: int = 0o666) -> int:
        """Returns a descriptor, closed on exec."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def open_unnamed(self, label: str, directory: Path | str) -> int:
        """Returns a descriptor of a file without a name in `directory`: it goes when it is closed.

        Crash: where the file system knows no such files, an empty one may stay between its creation and its unlink.
        """
        try:
            return self._open_tmpfile(directory)
        except OSError as error:
            if error.errno not in _KNOWS_NO_TMPFILE:
                raise
        path = Path(directory) / f"{secrets.token_hex(8)}.tmp"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd

    def _open_tmpfile(self, directory: Path | str) -> int:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def close(self, label: str, fd: int) -> None:
        """Closes a descriptor."""
        os.close(fd)

    def free_bytes(self, label: str, path: Path | str) -> int:
        """Returns the bytes that a file system has left for us."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def close_unnamed(self, label: str, fd: int) -> None:
        """Closes a descriptor of a file without a name, which frees its blocks: nobody waits for many of them."""
        if os.fstat(fd).st_blocks * _STAT_BLOCK_BYTES < FREED_AT_ONCE_BYTES:
            os.close(fd)
        else:
            threading.Thread(target=os.close, args=(fd,), name=label, daemon=True).start()

    def copy_attributes(self, label: str, source: Path | str, target: Path | str) -> None:
        """Gives a file the mode and the owner of another."""
        attributes = os.stat(source)
        os.chown(target, attributes.st_uid, attributes.st_gid)
        os.chmod(target, stat.S_IMODE(attributes.st_mode))

    def read(self, label: str, fd: int, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes; fewer only at the end of the file."""
        data = os.pread(fd, size, offset)
        while len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        """Writes all of `data` at `offset`."""
        written = os.pwrite(fd, data, offset)
        if written != len(data):
            view = memoryview(data)
            while written < len(view):
                written += os.pwrite(fd, view[written:], offset + written)

    def write_vector(self, label: str, fd: int, parts: Sequence[Buffer], offset: int) -> None:
        """Writes `parts` one behind the other at `offset`."""
        total = sum(map(len, parts))
        written = os.pwritev(fd, parts, offset)
        if written != total:
            self.write(label, fd, b"".join(parts)[written:], offset + written)

    def sync(self, label: str, fd: int) -> None:
        """Makes the content of a file durable (fdatasync: size changes included, times not)."""
        os.fdatasync(fd)

    def sync_directory(self, label: str, path: Path | str) -> None:
        """Makes names created, renamed and removed in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, label: str, fd: int, size: int) -> None:
        """Sets the size of a file in bytes."""
        os.ftruncate(fd, size)

    def rename(self, label: str, source: Path | str, target: Path | str) -> None:
        """Gives a file another name, replacing what bears it."""
        os.rename(source, target)

    def unlink(self, label: str, path: Path | str) -> None:
        """Removes a name."""
        os.unlink(path)

    def remove_tree(self, label: str, path: Path | str) -> None:
        """Removes a directory and what is in it."""
        shutil.rmtree(path)

    def make_directory(self, label: str, path: Path | str) -> None:
        """Creates a directory; an existing one is fine."""
        os.makedirs(path, exist_ok=True)

    def copy(
        self, label: str, source_fd: int, target_fd: int, source_offset: int, target_offset: int, size: int
    ) -> int:
        """Copies up to `size` bytes between files inside the kernel. Returns the bytes copied."""
        done = 0
        while done < size:
            step = min(_COPY_CHUNK_BYTES, size - done)
            copied = os.copy_file_range(source_fd, target_fd, step, source_offset + done, target_offset + done)
            if copied == 0:
                break
            done += copied
        return done

    def read_file(self, label: str, path: Path) -> bytes:
        """Returns the whole of a small file."""
        fd = self.open(label + ".open", path, os.O_RDONLY)
        try:
            return self.read(label + ".read", fd, os.fstat(fd).st_size, 0)
        finally:
            self.close(label + ".close", fd)

    def replace_file(self, label: str, path: Path, content: bytes) -> None:
        """Writes a small file so that after a crash it has either the old or the new content.

        Crash: before the rename the old file stands and `<name>.tmp` may lie about (ignored and
        overwritten); after it the new one does, once the directory is synced, which is before we return.
        """
        temporary = path.with_name(path.name + ".tmp")
        fd = self.open(label + ".open", temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.write(label + ".write", fd, content, 0)
            self.sync(label + ".sync", fd)
        finally:
            self.close(label + ".close", fd)
        self.rename(label + ".rename", temporary, path)
        self.sync_directory(label + ".sync_directory", path.parent)


class DelayingDisk(Disk):
    """A disk on which whatever waits for the platter takes longer: a slow disk for benchmarks and tests.

    Syncs, copies and the freeing of files, that is. Writes go to the page cache, and names to a journal.
    """

    def __init__(self, pattern: str, delay_s: float) -> None:
        """Args: pattern: shell pattern over labels; delay_s: added before each matching call."""
        self._pattern = pattern
        self._delay_s = delay_s

    def _wait(self, label: str) -> None:
        if fnmatch.fnmatch(label, self._pattern):
            time.sleep(self._delay_s)

    def sync(self, label: str, fd: int) -> None:
        """Waits, then syncs."""
        self._wait(label)
        super().sync(label, fd)

    def sync_directory(self, label: str, path: Path | str) -> None:
        """Waits, then syncs."""
        self._wait(label)
        super().sync_directory(label, path)

    def copy(
        self, label: str, source_fd: int, target_fd: int, source_offset: int, target_offset: int, size: int
    ) -> int:
        """Waits, then copies."""
        self._wait(label)
        return super().copy(label, source_fd, target_fd, source_offset, target_offset, size)

    def remove_tree(self, label: str, path: Path | str) -> None:
        """Waits, then removes."""
        self._wait(label)
        super().remove_tree(label, path)


class FullDisk(Disk):
    """A disk that is full for matching labels as long as a flag file exists."""

    def __init__(self, pattern: str, flag_path: str) -> None:
        """Args: pattern: shell pattern over labels; flag_path: while it exists, writes fail with ENOSPC."""
        self._pattern = pattern
        self._flag_path = flag_path

    def _check(self, label: str) -> None:
        if fnmatch.fnmatch(label, self._pattern) and os.path.exists(self._flag_path):
            raise OSError(errno.ENOSPC, f"injected at {label}")

    def write(self, label: str, fd: int, data: Buffer, offset: int) -> None:
        """Writes, or fails with ENOSPC."""
        self._check(label)
        super().write(label, fd, data, offset)

    def free_bytes(self, label: str, path: Path | str) -> int:
        """Returns 0, or what is left."""
        try:
            self._check(label)
        except OSError:
            return 0
        return super().free_bytes(label, path)

    def write_vector(self, label: str, fd: int, parts: Sequence[Buffer], offset: int) -> None:
        """Writes, or fails with ENOSPC."""
        self._check(label)
        super().write_vector(label, fd, parts, offset)


FAULTS_VARIABLE = "LITEFS_FAULTS"


def disk_from_environment(environment: Mapping[str, str] = os.environ) -> Disk:
    """Returns the plain disk, or the one that `LITEFS_FAULTS` asks for.

    The variable reads `delay:<label pattern>:<seconds>` or `full:<label pattern>:<flag file>`.

    Raises:
        ValueError: the variable is set and reads neither way.
    """
    text = environment.get(FAULTS_VARIABLE, "")
    if not text:
        return Disk()
    kind, _, rest = text.partition(":")
    pattern, _, value = rest.partition(":")
    if kind == "delay" and value:
        return DelayingDisk(pattern, float(value))
    if kind == "full" and value:
        return FullDisk(pattern, value)
    raise ValueError(f"{FAULTS_VARIABLE}={text!r}: expected delay:PATTERN:SECONDS or full:PATTERN:FLAG_FILE")
