"""The one place where exceptions become errno. What is not in the table is EIO, with a traceback.

What SQLite makes of them was measured: ENOSPC from a write is "database or disk is full", any other
errno "disk I/O error"; EACCES from the creation of a journal is "attempt to write a readonly database";
EINTR makes SQLite try for ever and is never answered.
"""

import errno

from litefs.errors import CommitRefusedError, NotPrimaryError, StorageError, UncapturedWriteError

ERRNO_BY_ERROR: dict[type[BaseException], int] = {
    NotPrimaryError: errno.EACCES,
    UncapturedWriteError: errno.EIO,
    CommitRefusedError: errno.EIO,
    StorageError: errno.EIO,
}

PASSED_ON = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EEXIST, errno.EACCES, errno.EFBIG, errno.ESTALE})
"""errno values of the data directory's own calls that mean the same to the application."""

REASONS = ("not-primary", "not-captured", "refused", "disk-full", "disk")
"""For which requests are refused, as metrics call them."""


def reason_of(error: BaseException) -> str:
    """Returns the one of `REASONS` for which a request was refused; "" where it is no refusal."""
    if isinstance(error, NotPrimaryError):
        return "not-primary"
    if isinstance(error, UncapturedWriteError):
        return "not-captured"
    if isinstance(error, CommitRefusedError):
        return "refused"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full"
    return "disk" if isinstance(error, OSError | StorageError) else ""


def errno_of(error: BaseException) -> int | None:
    """Returns the errno to answer, or None if the table does not know the exception."""
    for known in type(error).__mro__:
        if known in ERRNO_BY_ERROR:
            return ERRNO_BY_ERROR[known]
    if isinstance(error, OSError):
        return error.errno if error.errno in PASSED_ON else errno.EIO
    return None
