"""The live wal-index: the shared memory of a `-shm` file, written the way SQLite's WAL writer writes it.

Strategy: each region of 32 KiB is mapped by itself, so that growing never moves what readers of this process
hold. Stores are typed (32 and 16 bits), never byte by byte.

Rules of this file (numbers as in the tests):
  I6  nBackfill <= mxFrame; the hash reaches exactly the frames up to mxFrame; both header copies equal at rest.
  P4  entries are complete before the header that makes them visible is stored.
  P5  nothing comes between the two header stores: a process that stops there blocks every reader.
  P6  recovery builds entries privately and copies them: live readers search the same memory.
Assumes: the caller holds the WRITE lock; for rebuild, and for read marks, the locks their docstrings name.

Source: SQLite 3.40, wal.c (walIndexAppend, walIndexWriteHdr, walIndexRecover, walCleanupHash).
"""

import ctypes
import mmap
import os
import platform
from array import array
from collections.abc import Callable, Sequence

from litefs.formats.wal_index import (
    BACKFILL_ATTEMPTED_OFFSET,
    BACKFILL_OFFSET,
    HASH_OFFSET,
    HASH_SLOT_N,
    PGNO_OFFSET,
    READ_MARKS_OFFSET,
    REGION_FRAME_N,
    REGION_SIZE,
    frame_region,
    hash_slot,
    region_first_frame,
    region_frame_n,
)

_HEADER_WORDS = 12
_BACKFILL_WORD = BACKFILL_OFFSET // 4
_READ_MARK_WORD = READ_MARKS_OFFSET // 4
_BACKFILL_ATTEMPTED_WORD = BACKFILL_ATTEMPTED_OFFSET // 4
_ENTRY_WORDS = REGION_FRAME_N
_MAP_BYTES = max(REGION_SIZE, mmap.ALLOCATIONGRANULARITY)
_REGIONS_PER_MAP = _MAP_BYTES // REGION_SIZE
_SLOT_MASK = HASH_SLOT_N - 1
_ZERO_WORDS = memoryview(bytes(REGION_SIZE)).cast("I")


def _load_fence() -> Callable[[], None] | None:
    """Returns a full memory fence, or None where the processor keeps stores in order by itself (x86)."""
    if platform.machine() in ("x86_64", "AMD64", "i686", "i386"):
        return None
    sequentially_consistent = 5
    fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
    return lambda: fence(sequentially_consistent)


_fence = _load_fence()


class Region:
    """One 32 KiB block of the wal-index: page numbers by frame, and a hash from page number to frame."""

    def __init__(self, memory: memoryview, index: int) -> None:
        """Args: memory: the 32 KiB, writable; index: 0 for the block that starts with the headers."""
        self.words = memory.cast("I")
        self._slots = memory[HASH_OFFSET:].cast("H")
        self._first_word = PGNO_OFFSET // 4 if index == 0 else 0
        self.capacity = region_frame_n(index)
        self._last_slot: dict[int, int] = {}

    def append(self, entry: int, pgnos: Sequence[int]) -> None:
        """Enters page numbers from 0-based `entry` on; the first entry of a region clears what it held before."""
        words = self.words
        start = self._first_word + entry
        if entry == 0:
            words[self._first_word :] = _ZERO_WORDS[self._first_word :]
            self._last_slot.clear()
        elif words[start]:
            self._forget_from(entry)
        words[start : start + len(pgnos)] = memoryview(array("I", pgnos))
        if _fence:
            _fence()
        self._hash(entry, pgnos)

    def _hash(self, entry: int, pgnos: Sequence[int]) -> None:
        # A page written again and again would be probed past all its older entries: start behind the newest.
        slots = self._slots
        last_slot = self._last_slot
        for pgno in pgnos:
            entry += 1
            slot = last_slot.get(pgno, -1)
            slot = hash_slot(pgno) if slot < 0 else slot + 1 & _SLOT_MASK
            while slots[slot]:
                slot = slot + 1 & _SLOT_MASK
            slots[slot] = entry
            last_slot[pgno] = slot

    def _forget_from(self, entry: int) -> None:
        """Removes what a writer that died left from `entry` on: entries behind mxFrame that nobody may find."""
        slots = self._slots
        for slot, value in enumerate(slots.tolist()):
            if value > entry:
                slots[slot] = 0
        self._last_slot.clear()
        start = self._first_word + entry
        self.words[start:_ENTRY_WORDS] = _ZERO_WORDS[start:_ENTRY_WORDS]

    def pgnos(self, start: int, stop: int) -> list[int]:
        """Returns the page numbers of the 0-based entries `start`..`stop`."""
        return self.words[self._first_word + start : self._first_word + stop].tolist()

    def copy_from(self, other: "Region") -> None:
        """Takes over entries and hash of another region; the headers of the first region stay."""
        first = self._first_word
        self.words[first:] = other.words[first:]
        self._last_slot.clear()

    def release(self) -> None:
        """Lets go of the memory, so that it can be unmapped."""
        self.words.release()
        self._slots.release()


class WalIndexMap:
    """All regions of one `-shm` file, mapped as they are needed."""

    def __init__(self, fd: int) -> None:
        """Args: fd: the `-shm`, open for reading and writing; it stays the caller's."""
        self._fd = fd
        self._maps: list[tuple[mmap.mmap, memoryview]] = []
        self._regions: list[Region] = []
        self._region(0)

    def close(self) -> None:
        """Unmaps the file."""
        for region in self._regions:
            region.release()
        for mapping, view in self._maps:
            view.release()
            mapping.close()
        self._regions.clear()
        self._maps.clear()

    # ---- headers and checkpoint information ----

    def headers(self) -> bytes:
        """Returns both header copies, 96 bytes."""
        return self._regions[0].words[: 2 * _HEADER_WORDS].tobytes()

    def publish(self, header: bytes) -> None:
        """Makes a new state visible to readers.

        Args:
            header: 48 bytes with valid checksums.

        Crash: before, the old state stands and the new frames are leftovers. Between the two stores, the copies
        differ and the next opener recovers from the WAL, which holds the new frames: the new state. After, it stands.
        """
        words = self._regions[0].words
        new = memoryview(header).cast("I")
        if _fence is None:
            # No call from here to the second store: Python must not let another thread run in between (P5).
            words[12:24] = new
            words[0:12] = new
        else:
            _fence()
            words[12:24] = new
            _fence()
            words[0:12] = new

    @property
    def backfilled_n(self) -> int:
        """Frames that are in the database file (nBackfill)."""
        return self._regions[0].words[_BACKFILL_WORD]

    @backfilled_n.setter
    def backfilled_n(self, frame: int) -> None:
        self._regions[0].words[_BACKFILL_WORD] = frame

    def set_backfill_attempted(self, frame: int) -> None:
        """Notes how far a checkpoint may have come (nBackfillAttempted), before it writes the first page."""
        self._regions[0].words[_BACKFILL_ATTEMPTED_WORD] = frame

    def read_mark(self, mark: int) -> int:
        """Returns the frame up to which readers under lock READ`mark` see, or `READ_MARK_UNUSED`."""
        return self._regions[0].words[_READ_MARK_WORD + mark]

    def set_read_mark(self, mark: int, frame: int) -> None:
        """Sets a read mark; the caller holds the READ lock of that number exclusively."""
        self._regions[0].words[_READ_MARK_WORD + mark] = frame

    # ---- frames ----

    def append(self, first_frame: int, pgnos: Sequence[int]) -> None:
        """Enters the page numbers of frames `first_frame`, `first_frame` + 1, …; invisible until a publish.

        Raises:
            OSError: the file cannot grow; nothing became visible.
        """
        done = 0
        while done < len(pgnos):
            frame = first_frame + done
            index, number = frame_region(frame)
            region = self._region(index)
            part = pgnos[done : done + region.capacity - number + 1]
            region.append(number - 1, part)
            done += len(part)

    def pgnos(self, first_frame: int, last_frame: int) -> list[int]:
        """Returns the page numbers of frames `first_frame`..`last_frame`, both inclusive."""
        found: list[int] = []
        frame = first_frame
        while frame <= last_frame:
            index, _ = frame_region(frame)
            region = self._region(index)
            first = region_first_frame(index)
            stop = min(last_frame - first + 1, region.capacity)
            found += region.pgnos(frame - first, stop)
            frame = first + stop
        return found

    def rebuild(self, pgnos: Sequence[int]) -> None:
        """Replaces all entries by those of frames 1..n; the caller holds CKPT and RECOVER (P6)."""
        done = 0
        while done < len(pgnos):
            index, _ = frame_region(done + 1)
            private = Region(memoryview(bytearray(REGION_SIZE)), index)
            part = pgnos[done : done + private.capacity]
            private.append(0, part)
            self._region(index).copy_from(private)
            done += len(part)

    def _region(self, index: int) -> Region:
        while len(self._regions) <= index:
            self._map_next()
        return self._regions[index]

    def _map_next(self) -> None:
        """Maps one more piece of the file, extended by written zeros: a hole the disk has no room for is SIGBUS."""
        offset = len(self._maps) * _MAP_BYTES
        size = os.fstat(self._fd).st_size
        if size < offset + _MAP_BYTES:
            os.pwrite(self._fd, bytes(offset + _MAP_BYTES - size), size)
        mapping = mmap.mmap(self._fd, _MAP_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        view = memoryview(mapping)
        self._maps.append((mapping, view))
        for part in range(_REGIONS_PER_MAP):
            index = len(self._regions)
            self._regions.append(Region(view[part * REGION_SIZE : (part + 1) * REGION_SIZE], index))
