"""What a node has of its machine for itself: a disk that can be filled, and a wall clock that can be set."""

import mmap
import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.support import preload

DISK_BYTES = 1 << 30
"""Several times what the log and the states that were set aside take in hours; of the real disk only what is used."""


class Disk:
    """A file system in a file, `DIRECTORY.img`, mounted at a directory. What is in it can be looked at afterwards."""

    def __init__(self, directory: Path) -> None:
        """Makes and mounts it. Args: directory: exists, and is empty."""
        self._directory = directory
        self._ballast = directory / "ballast"
        image = directory.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", image)
        _run("mount", "-o", "loop", image, directory)

    def fill(self, left_bytes: int) -> None:
        """Leaves no more free than so much, about."""
        system = os.statvfs(self._directory)
        with self._ballast.open("wb") as file, suppress(OSError):  # the node has taken some of it meanwhile
            os.posix_fallocate(file.fileno(), 0, max(system.f_bavail * system.f_frsize - left_bytes, 1))

    def empty(self) -> None:
        """Frees what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    def detach(self) -> None:
        """Takes it out of the tree; whoever has files open in it may go on."""
        _run("umount", "-l", self._directory)


class WallClock:
    """The wall clock of the processes that are started with `environment`."""

    def __init__(self, directory: Path) -> None:
        """Args: directory: exists."""
        path = directory / "wall-clock"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(preload.compiled("wall_clock", directory)), "WALL_CLOCK": str(path)}

    def set_ahead(self, seconds: int) -> None:
        """Sets it, at once and for all of them, to so many seconds after the true time."""
        self._ahead[:] = struct.pack("q", seconds)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
