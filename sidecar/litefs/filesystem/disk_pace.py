"""Knows whether the disk syncs in less time than a thread takes to wake up.

Strategy: a moving average over the last syncs, wherever they ran. It starts slow, so that a disk has to prove itself;
one bad sync of 5 ms sends the next dozen to threads.
"""

import time
from collections.abc import Callable

QUICK_S = 200e-6
"""Waking a thread and being woken by it costs 40–100 µs on idle processors, and both want the interpreter's lock."""

_WEIGHT = 1 / 16


class DiskPace:
    """The average duration of syncs. Safe from any thread: a lost update is one sample less."""

    __slots__ = ("_clock", "mean_s")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Args: clock: seconds."""
        self._clock = clock
        self.mean_s = 16 * QUICK_S

    @property
    def is_quick(self) -> bool:
        """The next sync is better waited for in place."""
        return self.mean_s < QUICK_S

    def timed(self, sync: Callable[[], None]) -> None:
        """Does a sync and notes how long it took, also if it raises."""
        begun = self._clock()
        try:
            sync()
        finally:
            self.mean_s += (self._clock() - begun - self.mean_s) * _WEIGHT
