"""Durations in buckets."""

from litefs.storage.latency import BOUNDS_S, LatencyHistogram


def test_a_duration_counts_in_the_first_bucket_that_it_does_not_exceed() -> None:
    histogram = LatencyHistogram()
    for duration_s in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], BOUNDS_S[-1] * 2):
        histogram.observe(duration_s)
    assert histogram.counts == [2, 1, *[0] * (len(BOUNDS_S) - 3), 1, 1]
    assert histogram.sum_s == BOUNDS_S[0] * 2.01 + BOUNDS_S[-1] * 3
