"""What a request can be refused for, below the exception tree of `litefs.errors`.

LiteFSError
└── RequestError                the request was not carried out; the database is as it was
    ├── DatabaseNotFoundError
    ├── OversizeError           the body is larger than this endpoint accepts
    ├── BadRequestError         the request contradicts itself or us
    ├── ConflictError           the same database is being replaced by somebody else
    ├── OtherClusterError       the caller belongs to another cluster than this node
    ├── TooManyStreamsError     as many replicas as it can serve follow this node already
    ├── SlowPeerError           the other side neither sent nor read for longer than it may
    ├── UnusableBodyError       the body is not the database file that it should be
    └── NotBuiltError           this node cannot do that: the feature does not exist in this version
"""

from litefs.errors import LiteFSError


class RequestError(LiteFSError):
    """The request was not carried out; the database is as it was."""


class DatabaseNotFoundError(RequestError):
    """This node has no such database, or it was dropped."""


class OversizeError(RequestError):
    """The body is larger than this endpoint accepts."""


class BadRequestError(RequestError):
    """The request contradicts itself or us."""


class ConflictError(RequestError):
    """The same database is being replaced by somebody else: another import, or while it was opened. Try again."""


class OtherClusterError(RequestError):
    """The caller belongs to another cluster than this node."""


class TooManyStreamsError(RequestError):
    """As many replicas as it can serve follow this node already."""


class SlowPeerError(RequestError):
    """The other side neither sent nor read for longer than it may. Its connection is dropped."""


class UnusableBodyError(RequestError):
    """The body is not the database file that it should be. Nothing was replaced."""


class NotBuiltError(RequestError):
    """This node cannot do that: the feature does not exist in this version."""
