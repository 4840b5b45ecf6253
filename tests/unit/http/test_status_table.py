"""Every exception of LiteFS has one status, or none on purpose."""

import errno
from collections.abc import Iterator

import pytest

from litefs import errors
from litefs.errors import LiteFSError
from litefs.http import errors as http_errors
from litefs.http.status_table import STATUS_BY_EXCEPTION, status_of

WITHOUT_STATUS = {
    "LiteFSError",
    "RequestError",
    "NeedMoreData",
    "ConfigError",
    "StorageError",
    "DataDirLockedError",
    "DataDirVersionError",
    "CorruptStateError",
    "DiskLostError",
    "CommitRefusedError",
    "UncapturedWriteError",
    "PeerError",
    "PeerRefusedError",
}
"""Our own faults: 500 with a traceback in the log, and no detail to the client."""


def _exceptions() -> Iterator[type[LiteFSError]]:
    for module in (errors, http_errors):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, LiteFSError):
                yield value


@pytest.mark.parametrize("kind", list(dict.fromkeys(_exceptions())))
def test_an_exception_has_a_status_or_is_our_fault(kind: type[LiteFSError]) -> None:
    assert (status_of(kind("x")) is None) == (kind.__name__ in WITHOUT_STATUS)


def test_no_row_is_hidden_by_an_earlier_one() -> None:
    for index, (kind, _) in enumerate(STATUS_BY_EXCEPTION):
        assert not any(issubclass(kind, earlier) for earlier, _ in STATUS_BY_EXCEPTION[:index])


def test_a_full_disk_is_507_and_other_failures_of_the_disk_are_ours() -> None:
    assert status_of(OSError(errno.ENOSPC, "full")) == 507
    assert status_of(OSError(errno.EIO, "broken")) is None
