"""Lines of `GET /events`, whatever is in an image."""

import pytest

from litefs.http.events import rfc3339


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_190, "2023-11-14T22:13:20.19Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ((1 << 63) - 1, "9999-12-31T23:59:59.999Z"),
        (-(1 << 63), "0001-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_written_as_go_writes_it_and_one_beyond_the_calendar_as_its_end(timestamp_ms: int, text: str) -> None:
    assert rfc3339(timestamp_ms) == text
