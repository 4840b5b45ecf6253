"""A file that need not survive: journal, WAL, shared memory and super-journal live in these.

Strategy: bytes in memory up to a bound, then all of it moves to a file without a name in the data
directory. The kernel's page cache holds what matters, so the move costs little and memory stays bounded.
"""

import os
from pathlib import Path

from litefs.storage.disk import Buffer, Disk

SCRATCH_MEMORY_BYTES = 5 << 20
"""Per file. SQLite checkpoints a WAL at 1,000 pages, some 4 MiB: such a WAL stays in memory, where a write costs
a fifth of a system call."""


class ScratchFile:
    """Random-access bytes with a size; what was never written reads as zeros."""

    __slots__ = ("_directory", "_disk", "_fd", "_memory", "size")

    def __init__(self, disk: Disk, directory: Path) -> None:
        """Args: directory: where the unnamed file is made once memory does not suffice."""
        self._disk = disk
        self._directory = directory
        self._memory = bytearray()
        self._fd = -1
        self.size = 0

    def read(self, offset: int, size: int) -> bytes:
        """Returns up to `size` bytes from `offset`; fewer at the end."""
        if self._fd < 0:
            return bytes(self._memory[offset : offset + size])
        return self._disk.read("scratch.read", self._fd, min(size, max(0, self.size - offset)), offset)

    def write(self, offset: int, data: Buffer) -> None:
        """Writes `data`, extending the file with zeros up to `offset` if need be.

        Raises:
            OSError: the spill file cannot take it (ENOSPC); the old content stands.
        """
        end = offset + len(data)
        if self._fd < 0:
            if end <= SCRATCH_MEMORY_BYTES:
                memory = self._memory
                if offset > len(memory):
                    memory.extend(bytes(offset - len(memory)))
                memory[offset:end] = data
                self.size = len(memory)
                return
            self._spill()
        self._disk.write("scratch.write", self._fd, data, offset)
        if end > self.size:
            self.size = end

    def truncate(self, size: int) -> None:
        """Sets the size in bytes; growth reads as zeros. Truncation to nothing returns to memory."""
        if self._fd >= 0:
            if size == 0:
                self.close()
            else:
                self._disk.truncate("scratch.truncate", self._fd, size)
        elif size <= len(self._memory):
            del self._memory[size:]
        elif size <= SCRATCH_MEMORY_BYTES:
            self._memory.extend(bytes(size - len(self._memory)))
        else:
            self._spill()
            self._disk.truncate("scratch.truncate", self._fd, size)
        self.size = size

    def close(self) -> None:
        """Forgets the content."""
        if self._fd >= 0:
            self._disk.close_unnamed("scratch.close", self._fd)
            self._fd = -1
        self._memory = bytearray()
        self.size = 0

    def __del__(self) -> None:
        # A removed file lives on in the handles that are open; the last of them takes it along.
        if self._fd >= 0:
            self._disk.close_unnamed("scratch.close", self._fd)

    def _spill(self) -> None:
        fd = self._disk.open_unnamed("scratch.spill", self._directory)
        try:
            self._disk.write("scratch.spill", fd, self._memory, 0)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._memory = bytearray()
