import errno
from collections.abc import Iterator

import pytest

from litefs import errors
from litefs.errors import LiteFSError
from litefs.filesystem.errno_table import errno_of

REACHES_A_REQUEST = {
    errors.CommitRefusedError: errno.EIO,
    errors.UncapturedWriteError: errno.EIO,
    errors.NotPrimaryError: errno.EACCES,
    errors.StorageError: errno.EIO,
    errors.DiskLostError: errno.EIO,
    errors.CorruptStateError: errno.EIO,
    errors.DataDirLockedError: errno.EIO,
    errors.DataDirVersionError: errno.EIO,
}
"""What storage raises while it serves. Everything else would be a mistake of ours."""


def subclasses(of: type[LiteFSError]) -> Iterator[type[LiteFSError]]:
    for direct in of.__subclasses__():
        yield direct
        yield from subclasses(direct)


@pytest.mark.parametrize(("error", "expected"), REACHES_A_REQUEST.items(), ids=str)
def test_foreseen_errors_have_their_errno(error: type[LiteFSError], expected: int) -> None:
    assert errno_of(error("reason")) == expected


def test_every_other_error_of_ours_is_unforeseen_here() -> None:
    """They become EIO with a traceback. A new class has to be put into one of the two sets."""
    ours = {error for error in subclasses(LiteFSError) if error.__module__ == errors.__name__}
    unforeseen = {error for error in ours if errno_of(error("reason")) is None}
    assert unforeseen == ours - REACHES_A_REQUEST.keys()
    assert errors.FormatError in unforeseen


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.ESTALE])
def test_what_the_disk_says_is_passed_on_where_it_means_the_same(number: int) -> None:
    assert errno_of(OSError(number, "disk")) == number


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN, errno.EBADF, errno.ENOSYS, errno.EROFS, errno.EINVAL])
def test_what_would_mislead_sqlite_becomes_an_io_error(number: int) -> None:
    """EINTR makes SQLite try for ever; ENOSYS would end the operation for the whole mount."""
    assert errno_of(OSError(number, "disk")) == errno.EIO


def test_an_error_without_a_number_is_an_io_error() -> None:
    assert errno_of(OSError("no number")) == errno.EIO


@pytest.mark.parametrize("error", [KeyError("bug"), AssertionError(), ValueError(), ZeroDivisionError()])
def test_our_own_mistakes_are_not_in_the_table(error: Exception) -> None:
    assert errno_of(error) is None
