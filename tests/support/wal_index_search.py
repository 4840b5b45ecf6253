"""Searches a wal-index from its bytes alone, as a reader of SQLite does."""

import sys

from litefs.formats.wal_index import HASH_OFFSET, HASH_SLOT_N, PGNO_OFFSET, REGION_SIZE, hash_slot, region_first_frame


def pgno_offset(region: int, index: int) -> int:
    """Returns the offset in the `-shm` file of the page number of a frame.

    Args:
        region: 0-based.
        index: 1-based within the region.
    """
    return region * REGION_SIZE + (0 if region else PGNO_OFFSET) + 4 * (index - 1)


def slot_offsets(region: int) -> range:
    """Returns the offsets in the `-shm` file of the hash slots of a region."""
    start = region * REGION_SIZE + HASH_OFFSET
    return range(start, start + 2 * HASH_SLOT_N, 2)


def frames_of(shm: bytes, pgno: int, mx_frame: int) -> list[int]:
    """Returns the frames that hold a page, ascending: from each region's chain that begins at the page's slot."""
    frames = []
    for region in range(len(shm) // REGION_SIZE):
        slot, slots = hash_slot(pgno), slot_offsets(region)
        while index := int.from_bytes(shm[slots[slot] : slots[slot] + 2], sys.byteorder):
            frame, at = region_first_frame(region) + index - 1, pgno_offset(region, index)
            if frame <= mx_frame and int.from_bytes(shm[at : at + 4], sys.byteorder) == pgno:
                frames.append(frame)
            slot = (slot + 1) % HASH_SLOT_N
    return sorted(frames)
