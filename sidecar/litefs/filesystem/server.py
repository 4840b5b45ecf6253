"""The filesystem process: opens the data directory, mounts, serves, and tidies up behind the commits.

Order of a start: lock the data directory, recover every database, mount, tell the supervisor. Of an end:
the supervisor has detached the mount, or we do it first; then everything is closed.
"""

import array
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import pyfuse3

from litefs.errors import DiskLostError, LiteFSError
from litefs.filesystem.inodes import Inode, InodeTable
from litefs.filesystem.link_server import LinkServer
from litefs.filesystem.loop import Loop
from litefs.filesystem.negotiation import NO_OPENDIR_SUPPORT, negotiate
from litefs.filesystem.operations import Operations
from litefs.filesystem.special_files import ClusterView
from litefs.filesystem.wakefulness import Wakefulness
from litefs.link.settings import FilesystemSettings, Mounted, NewLink
from litefs.storage.data_dir import DataDir
from litefs.storage.database import CommitGate, Database, StoreSettings
from litefs.storage.disk import disk_from_environment
from litefs.storage.housekeeping import Housekeeper
from litefs.storage.replacement import discard_old_logs
from litefs.storage.store import Store

SETTLE_DELAY_S = 0.1
"""How long a commit without sync may wait for the background sync; it bounds what a power cut takes with OFF."""

WORKERS_MAX = 100_000
"""Requests that may wait at once; with as many parked as pyfuse3 has workers, nothing is read any more."""

DISK_LOST_EXIT_CODE = 99
"""As the command line documents it; that package lies above this one."""

_log = logging.getLogger("litefs.filesystem")


class FilesystemServer:
    """Everything that lives in the filesystem process."""

    def __init__(self, settings: FilesystemSettings) -> None:
        """Opens and recovers the data directory.

        Raises:
            LiteFSError: it cannot be used; nothing was deleted.
        """
        self._settings = settings
        self._loop = Loop()
        disk = disk_from_environment()
        self._data_dir = DataDir(Path(settings.data_dir), disk)
        gate = CommitGate(float("inf") if settings.primary else 0.0, time.monotonic)
        store_settings = StoreSettings(
            node_id=self._data_dir.node_id,
            compress=settings.compress,
            overlay_memory_bytes=settings.overlay_memory_bytes,
            segment_bytes=settings.segment_bytes,
            sync_every_commit=settings.sync_every_commit,
        )
        self._store = Store(self._data_dir, disk, store_settings, gate)
        self._store.open(_RecoveryLog(), set_aside_damaged=settings.set_aside_damaged)
        self._view = ClusterView(is_primary=gate.is_open)
        inodes = InodeTable(self._data_dir.start, 0o777, os.getuid(), os.getgid())
        self._operations = Operations(self._store, inodes, self._loop, self._view)
        self._operations.invalidate = self._invalidate
        self._operations.stop_at_once = self._stop_at_once
        self._operations.on_first_journal = self._prepare_segment
        self._housekeeper = Housekeeper(settings.retention_s, settings.kept_for_replicas_bytes)
        self._unsettled: dict[str, Database] = {}
        self._is_settling = False
        self._preparing: set[str] = set()
        self._store.on_accept = self._accepted
        for name, served in self._store.databases.items():
            if served.database.exists:
                inodes.add_database(name, served)
                if served.database.wal_mode and not gate.is_open:
                    # Readers of a replica cannot make the WAL themselves, and without one not even SELECT works.
                    self._operations.make_wal(name, served)
        self._link = LinkServer(self._operations, self._role_changed)
        self._control = socket.socket(fileno=settings.control_fd)
        self._control_buffer = b""

    def run(self) -> None:
        """Mounts and serves until the mount is detached or the supervisor is gone.

        Raises:
            LiteFSError: it cannot be mounted; libfuse has written the reason to standard error.
        """
        self._loop.install()
        if self._settings.low_latency:
            self._loop.wakefulness = Wakefulness(self._loop.call_later)
        try:
            pyfuse3.init(self._operations, self._settings.mount_dir, self._mount_options())
        except RuntimeError as error:
            raise LiteFSError(
                f"{self._settings.mount_dir}: cannot be mounted: that needs /dev/fuse, and root or fusermount3"
            ) from error
        # Whatever happens from here on: no dead mount is left behind.
        try:
            self._begin()
            self._loop.run(pyfuse3.main(min_tasks=8, max_tasks=WORKERS_MAX))
        finally:
            pyfuse3.close(unmount=True)
            self._store.close()
            self._data_dir.close()

    def _mount_options(self) -> set[str]:
        settings = self._settings
        asked = {
            "allow_other": settings.allow_other,
            "default_permissions": settings.default_permissions,
            "debug": settings.debug,
        }
        return {"fsname=litefs", "subtype=litefs", *(option for option, is_asked in asked.items() if is_asked)}

    def _begin(self) -> None:
        """Joins the kernel, the supervisor and the node process; all of them wait until the loop runs."""
        settings = self._settings
        features = negotiate(self._loop, _fuse_descriptor())
        self._operations.lists_without_opendir = bool(features & NO_OPENDIR_SUPPORT)
        self._link.attach(socket.socket(fileno=settings.link_fd))
        self._loop.watch(self._control.fileno(), self._receive_control)
        self._send_control(Mounted(_mount_device(settings.mount_dir)))
        self._loop.spawn(self._link.serve(), "link")
        self._loop.call_later(settings.retention_check_s, self._tick)
        signal.signal(signal.SIGTERM, lambda number, frame: self._loop.call_from_signal(self._end))

    # ---- behind the commits ----

    def _prepare_segment(self, database: Database) -> None:
        """Makes the next log segment in a thread: a commit that had to make it would stop the loop."""
        if database.name not in self._preparing:
            self._preparing.add(database.name)
            self._loop.spawn(self._make_segment(database), "segment")

    async def _make_segment(self, database: Database) -> None:
        try:
            await self._loop.drive(self._housekeeper.prepare_segment(database))
        finally:
            self._preparing.discard(database.name)

    def _accepted(self, database: Database) -> None:
        self._link.committed(database)
        if database.log.wants_spare():
            self._prepare_segment(database)
        if database.name not in self._unsettled:
            self._unsettled[database.name] = database
            if not self._is_settling:
                self._is_settling = True
                self._loop.call_later(SETTLE_DELAY_S, lambda: self._loop.spawn(self._settle(), "settle"))

    async def _settle(self) -> None:
        """Syncs and settles what was committed since, then checkpoints what is due."""
        now = time.monotonic()
        batch, self._unsettled = self._unsettled, {}
        try:
            for database in batch.values():
                await self._settle_one(database, now)
        finally:
            self._is_settling = False
        if self._unsettled:
            self._is_settling = True
            self._loop.call_later(SETTLE_DELAY_S, lambda: self._loop.spawn(self._settle(), "settle"))

    async def _settle_one(self, database: Database, now_s: float) -> None:
        drive = self._loop.drive
        try:
            await drive(self._housekeeper.settle(database))
        except OSError as error:
            self._stop_at_once(DiskLostError(f"{database.name}: log sync: {error}"))
            return
        if self._housekeeper.checkpoint_due(database, now_s):
            await self._checkpoint(database, now_s)

    async def _checkpoint(self, database: Database, now_s: float) -> None:
        try:
            await self._loop.drive(self._housekeeper.checkpoint(database, now_s))
        except OSError as error:
            _log.warning("%s: checkpoint of the log: %s", database.name, error)

    def _tick(self) -> None:
        """Once per retention check: checkpoint what became due by age, and drop old segments."""
        self._loop.spawn(self._tidy(), "tidy")
        self._loop.call_later(self._settings.retention_check_s, self._tick)

    async def _tidy(self) -> None:
        now = time.monotonic()
        for served in list(self._store.databases.values()):
            database = served.database
            if self._housekeeper.checkpoint_due(database, now):
                await self._checkpoint(database, now)
            try:
                needed = self._store.needed.get(database.name, ())
                await self._loop.drive(self._housekeeper.forget(database, now, needed))
                await self._loop.drive(discard_old_logs(database.disk, database.directory))
            except OSError as error:
                _log.warning("%s: removing old log: %s", database.name, error)

    def _role_changed(self) -> None:
        self._view.is_primary = self._store.gate.is_open

    def _invalidate(self, inode: Inode) -> None:
        """Makes the kernel forget the pages of a dead database. Off the loop: it waits for page locks."""

        def forget_pages() -> None:
            try:
                pyfuse3.invalidate_inode(pyfuse3.InodeT(inode.number))
            except OSError as error:
                _log.debug("invalidate inode %d: %s", inode.number, error)

        self._loop.offload(forget_pages)

    def _stop_at_once(self, error: Exception) -> None:
        """Durability is unknown: go, without another word to the disk. Recovery finds out what counts."""
        _log.critical("stopping: %s", error)
        sys.stderr.flush()
        os._exit(DISK_LOST_EXIT_CODE)

    # ---- the supervisor ----

    def _send_control(self, message: msgspec.Struct) -> None:
        with contextlib.suppress(BrokenPipeError):  # its end of file, which ends us, is on the way
            self._control.sendall(msgspec.json.encode(message) + b"\n")

    def _end(self) -> None:
        """Ends `run`, which then detaches the mount and closes everything."""
        pyfuse3.terminate()

    def _receive_control(self) -> None:
        try:
            data, ancillary, _, _ = self._control.recvmsg(65536, socket.CMSG_SPACE(4))
        except ConnectionResetError:  # killed with a message of ours unread
            data, ancillary = b"", []
        if not data:
            _log.info("the supervisor is gone: detaching")
            self._loop.unwatch(self._control.fileno())
            self._end()
            return
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload)
        *lines, self._control_buffer = (self._control_buffer + data).split(b"\n")
        for line in lines:
            msgspec.json.decode(line, type=NewLink)
            self._link.attach(socket.socket(fileno=fds.pop(0)))


class _RecoveryLog:
    """Says how far the verification of a large database is, every few seconds."""

    INTERVAL_S = 3.0

    def __init__(self) -> None:
        self._begun = self._said = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Takes note of `done` of `total` verified bytes."""
        now = time.monotonic()
        if now - self._said >= self.INTERVAL_S:
            self._said = now
            rate = done / max(now - self._begun, 1e-3) / 1e6
            _log.info("%s: verified %d of %d MB (%.0f MB/s)", name, done // 1_000_000, total // 1_000_000, rate)


def _fuse_descriptor() -> int:
    """Returns our descriptor of /dev/fuse; pyfuse3 does not tell it."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}") == "/dev/fuse":
                return int(entry)
        except OSError:
            continue
    raise LiteFSError("pyfuse3 has no /dev/fuse open")


def _mount_device(mount_dir: str) -> int:
    """Returns the number of our connection under /sys/fs/fuse/connections, without touching the mount."""
    escaped = mount_dir.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    device = 0
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            fields = line.split(" ")
            if fields[4] == escaped:
                device = int(fields[2].partition(":")[2])
    return device
