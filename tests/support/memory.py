"""What Python holds at most while something happens."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_growth_of(bytes_max: int) -> Iterator[None]:
    """Fails if Python holds more than `bytes_max` more at any time within the block."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_max, f"{peak / 1e6:.1f} MB"
