"""Keeps every wal-index of the mount mapped, to tell old connections when the mount dies.

A WAL connection with all pages in its cache looks at the shared memory only; after a restart of the
filesystem process it would go on with what it had, for ever and without an error. Its mapping and ours are
the same page of memory: when the link breaks, both copies of the header are zeroed there, and its next read
finds out. No file is truncated under a mapping, and in good order the mount goes only when the kernel has all pages
of all wal-indexes (`keep_pages`), so nobody dies of SIGBUS.
"""

import logging
import mmap
import os
import queue
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

HEADERS_SIZE = 96
UNUSED_OFFSET = 132
"""Four bytes that SQLite does not use, in the page of the headers: written to have the page mapped writable."""

MAPPED_BYTES = 4096
SIZE_TIMEOUT_S = 2.0
POLL_S = 0.002
"""We hear of the file while it is being made: the kernel believes a little longer that there is none, and SQLite
extends it a moment later."""

_log = logging.getLogger("litefs.node")


class ShmGuard:
    """Maps wal-indexes on a thread of its own, as they appear."""

    def __init__(self, mount_dir: str) -> None:
        """Args: mount_dir: absolute path of the mount point."""
        self._mount_dir = mount_dir
        self._maps: dict[str, mmap.mmap] = {}
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="shm-guard", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def add(self, name: str) -> None:
        """Has the `-shm` of a database mapped, instead of the one that bore its name before."""
        self._names.put(name)

    def zero_all(self) -> None:
        """The mount is dead: no header is to be believed any more."""
        for mapped in list(self._maps.values()):
            mapped[:HEADERS_SIZE] = bytes(HEADERS_SIZE)

    def zero(self, name: str) -> None:
        """The database was replaced: its connections must not go on."""
        mapped = self._maps.get(name)
        if mapped is not None:
            mapped[:HEADERS_SIZE] = bytes(HEADERS_SIZE)

    def keep_pages(self, names: Iterable[str]) -> None:
        """Has the kernel read all of these files, none of which grows any more: their pages outlive the mount.

        Until then a page of a `-shm` may be mapped that nobody has touched yet.
        """
        for name in names:
            with suppress(OSError):  # removed just now
                Path(self._mount_dir, name).read_bytes()

    def _run(self) -> None:
        waiting: dict[str, float] = {}  # until when, in monotonic seconds: one that does not come holds up no other
        while True:
            try:
                name = self._names.get(timeout=POLL_S if waiting else None)
                waiting[name] = time.monotonic() + SIZE_TIMEOUT_S
            except queue.Empty:
                pass
            for name, deadline in list(waiting.items()):
                if self._is_done(name) or time.monotonic() > deadline:
                    del waiting[name]

    def _is_done(self, name: str) -> bool:
        """Maps a file. Returns whether there is nothing to wait for."""
        try:
            return self._map(name)
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("%s-shm: not kept: %s", name, error)
            return True

    def _map(self, name: str) -> bool:
        fd = os.open(os.path.join(self._mount_dir, name + "-shm"), os.O_RDWR | os.O_CLOEXEC)
        try:
            mapped = mmap.mmap(fd, MAPPED_BYTES)
        except ValueError:
            return False  # it is shorter yet
        finally:
            os.close(fd)
        mapped[UNUSED_OFFSET : UNUSED_OFFSET + 4] = bytes(4)
        self._maps[name] = mapped
        return True
