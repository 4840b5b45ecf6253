"""Small limits, so that databases of a dozen pages take every path, and names that repeat with the seed."""

import contextlib
import random
import secrets
from collections.abc import Iterator

import pytest

from litefs.storage import base_file, database, housekeeping, raw_load, replacement, snapshot, transaction, wal_commit
from tests.support import storage_world

PAGE_SIZES = (512, 1024)
"""One sector, and two: a page that can be torn."""

PAGES_MAX = 20

_LIMITS: tuple[tuple[object, str, float], ...] = (
    (database, "DIRECT_PAGES_MAX", 5),
    (database, "DIRECT_SHRINK_BYTES", 4096),
    (base_file, "FREED_AT_ONCE_BYTES", 4096),
    (base_file, "WRITE_RUN_BYTES", 2048),
    (transaction, "SMALL_PAGES_MAX", 6),
    (wal_commit, "SMALL_PAGES_MAX", 6),
    (transaction, "YIELD_PAGES", 2),
    (raw_load, "COPY_BYTES", 4096),
    (replacement, "COPY_BYTES", 4096),
    (snapshot, "RUN_BYTES", 1024),
    (housekeeping, "CHECKPOINT_AGE_S", 0),
    (storage_world, "SEGMENT_BYTES", 12 << 10),
    (storage_world, "OVERLAY_BYTES", 6 << 10),
)


@contextlib.contextmanager
def small_limits(draw: random.Random) -> Iterator[None]:
    """Within, the limits of storage are small, and what it takes from `secrets` comes from `draw`."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in _LIMITS:
            patch.setattr(module, name, value)
        patch.setattr(secrets, "token_hex", lambda size: draw.randbytes(size).hex())
        patch.setattr(secrets, "randbits", draw.getrandbits)
        yield
