"""The data directory itself: who owns it, which version wrote it, who the node is, how often it started.

<data>/version          "1": the layout below it
<data>/id               node id, 16 hex digits
<data>/starts           how often the filesystem process started here: no inode number is used twice
<data>/dbs/<name>/      one directory per database
<data>/dbs-aside/       databases that were moved out of the way (`set_aside`)
<data>/must-follow      a mark that some of them were damaged (`must_follow`)
<data>/spool/           images too large for a message between the processes
<data>/clusterid        of the node process (`node/cluster_id.py`)
<data>/consul-session   of the node process, with a lease in Consul (`lease/consul_lease.py`)
"""

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from litefs.errors import CorruptStateError, DataDirLockedError, DataDirVersionError
from litefs.storage.disk import Disk

LAYOUT_VERSION = "1"


class DataDir:
    """An opened and locked data directory. The lock goes with the process, however it ends."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Locks the directory, checks its version, and counts the start.

        Raises:
            DataDirLockedError: another process has it.
            DataDirVersionError: it was written by another layout, or by another program; nothing was created.
            CorruptStateError: a file in it cannot be believed.
            OSError: it cannot be used.
        """
        self.path = path
        self._disk = disk
        disk.make_directory("data_dir.make", path)
        self._lock_fd = disk.open("data_dir.open", path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            raise DataDirLockedError(f"{path}: another LiteFS process uses this data directory") from None
        self._check_version()
        self.node_id = self._number("id", 16, lambda: secrets.randbits(64) or 1)
        for name in ("dbs", "spool"):
            disk.make_directory("data_dir.make", path / name)
        # Last, for it syncs the directory: a power cut must not take `dbs` away from under durable commits.
        self.start = self._count_start()

    def _check_version(self) -> None:
        path = self.path / "version"
        try:
            version = path.read_text().strip()
        except FileNotFoundError:
            if foreign := next(self.path.glob("dbs/*/ltx"), None):
                raise DataDirVersionError(
                    f"{foreign}: this directory belongs to LiteFS 0.5, which keeps its log in another way; "
                    "start with an empty one, and follow a primary or import the databases"
                ) from None
            self._disk.replace_file("data_dir.version", path, LAYOUT_VERSION.encode() + b"\n")
            return
        if version != LAYOUT_VERSION:
            raise DataDirVersionError(f"{path}: layout {version}, this LiteFS understands {LAYOUT_VERSION}")

    def _count_start(self) -> int:
        """Writes in place where that can be, for a node that starts on a full disk still serves reads.

        Crash: a write within a sector leaves the old number or the new one.
        """
        path, disk = self.path / "starts", self._disk
        try:
            before = path.read_bytes()
            start = int(before) + 1
        except FileNotFoundError:
            before, start = b"", 1
        except ValueError as error:
            raise CorruptStateError(f"{path}: {error}") from error
        # Durable before the mount exists: a number that was handed out is never handed out again.
        counted = b"%020d\n" % start
        if len(before) != len(counted):
            disk.replace_file("data_dir.starts", path, counted)
            return start
        fd = disk.open("data_dir.starts.open", path, os.O_WRONLY)
        try:
            disk.write("data_dir.starts.write", fd, counted, 0)
            disk.sync("data_dir.starts.sync", fd)
        finally:
            disk.close("data_dir.starts.close", fd)
        disk.sync_directory("data_dir.sync_directory", self.path)
        return start

    def _number(self, name: str, base: int, make: Callable[[], int]) -> int:
        path = self.path / name
        try:
            return int(path.read_text(), base)
        except FileNotFoundError:
            number = make()
            self._disk.replace_file(f"data_dir.{name}", path, b"%016x\n" % number)
            return number
        except ValueError as error:
            raise CorruptStateError(f"{path}: {error}") from error

    def close(self) -> None:
        """Unlocks the directory."""
        os.close(self._lock_fd)
