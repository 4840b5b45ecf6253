"""Durations and sizes."""

import pytest

from litefs.cli.units import format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1h", 3600),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("100μs", 1e-4),
        ("7ns", 7e-9),
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("-1m", -60),
        ("+1m", 60),
        ("1s1s", 2),
    ],
)
def test_reads_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1d", "1 s", "1s ", "1m30", "--1s", "1S", ".s", "+-0", "١s", "1e3s"])
def test_refuses_other_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1KB", 1024),
        ("64MB", 64 << 20),
        ("64MiB", 64 << 20),
        ("64M", 64 << 20),
        ("64 mb", 64 << 20),
        ("2g", 2 << 30),
    ],
)
def test_reads_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5MB", "1TB", "1 2", "1bb", "0x10"])
def test_refuses_other_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (1536 << 10, "1.5 MB"), (3 << 30, "3.0 GB"), (5 << 40, "5.0 TB")],
)
def test_writes_sizes(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
