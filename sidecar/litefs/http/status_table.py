"""Exceptions as HTTP statuses: the one table of this boundary.

The first class of the table that an exception belongs to decides. What is in no row is 500 with a
traceback in the log and no detail in the body, for it may name files of this machine.
"""

from errno import EDQUOT, ENOSPC
from http import HTTPStatus

from litefs.errors import (
    FormatError,
    HandoffRefusedError,
    LeaseError,
    LinkClosedError,
    LinkSilentError,
    LockHeldError,
    NotCandidateError,
    NotPrimaryError,
    PositionMismatchError,
)
from litefs.http.errors import (
    BadRequestError,
    ConflictError,
    DatabaseNotFoundError,
    NotBuiltError,
    OtherClusterError,
    OversizeError,
    SlowPeerError,
    TooManyStreamsError,
    UnusableBodyError,
)

STATUS_BY_EXCEPTION: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (DatabaseNotFoundError, HTTPStatus.NOT_FOUND),
    (BadRequestError, HTTPStatus.BAD_REQUEST),
    (ConflictError, HTTPStatus.CONFLICT),
    (OtherClusterError, HTTPStatus.CONFLICT),
    (TooManyStreamsError, HTTPStatus.SERVICE_UNAVAILABLE),
    (OversizeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnusableBodyError, HTTPStatus.INTERNAL_SERVER_ERROR),  # LiteFS 0.5 answers 500, and clients match on it
    (NotBuiltError, HTTPStatus.NOT_IMPLEMENTED),
    (FormatError, HTTPStatus.BAD_REQUEST),
    (SlowPeerError, HTTPStatus.REQUEST_TIMEOUT),
    (NotPrimaryError, HTTPStatus.SERVICE_UNAVAILABLE),
    (LeaseError, HTTPStatus.SERVICE_UNAVAILABLE),
    (NotCandidateError, HTTPStatus.CONFLICT),
    (HandoffRefusedError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (PositionMismatchError, HTTPStatus.CONFLICT),
    (LockHeldError, HTTPStatus.SERVICE_UNAVAILABLE),
    (LinkClosedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (LinkSilentError, HTTPStatus.SERVICE_UNAVAILABLE),
)


def status_of(error: Exception) -> HTTPStatus | None:
    """Returns the status of `error`, or None where the table has no row for it."""
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return HTTPStatus.INSUFFICIENT_STORAGE
    for kind, status in STATUS_BY_EXCEPTION:
        if isinstance(error, kind):
            return status
    return None
