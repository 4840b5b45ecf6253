"""How long something took, counted in buckets: what monitoring needs, for less than a microsecond each time."""

from bisect import bisect_left

BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets. A commit takes 0.1 ms without a sync, and as long as the disk likes with one."""


class LatencyHistogram:
    """Counts durations.

    Attributes:
        counts: how many fell into each bucket of `BOUNDS_S`, and into one more above the last.
        sum_s: of all durations.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        """Begins with none."""
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Counts one."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s
