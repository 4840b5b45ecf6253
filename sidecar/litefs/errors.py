"""The exception tree of LiteFS: each class says what its catcher may conclude.

    LiteFSError
    ├── FormatError            bytes from disk or network are not what they claim; nothing was applied
    │   └── ChecksumError      the bytes parse, and their checksum does not hold
    ├── NeedMoreData           a decoder was fed a prefix; feed more, nothing is wrong yet
    ├── ConfigError            the configuration is refused; nothing was created
    ├── StorageError           the data directory cannot be trusted or used
    │   ├── DataDirLockedError another process owns the data directory
    │   ├── DataDirVersionError written by another version than this one understands
    │   ├── CorruptStateError  base, state or log do not add up; nothing was deleted
    │   └── DiskLostError      a sync or a write that must not fail failed: the process must stop
    ├── CommitRefusedError     the transaction is not in the log and never will be; SQLite rolls it back
    │   ├── NotPrimaryError    this node may not commit now
    │   └── UncapturedWriteError  a change that no journal or WAL announces cannot be replicated
    ├── PositionMismatchError  an image does not follow the position it was offered to; nothing was applied
    ├── LockHeldError          an application holds a lock we need; nothing was done, try again
    ├── LeaseError             the lease could not be changed or confirmed as asked
    │   ├── LeaseLostError     this node does not hold it; another one may
    │   └── LeaseUnavailableError  whoever keeps the lease did not answer; what was asked may or may not have happened
    ├── HandoffRefusedError    the lease stays where it is
    │   └── NotCandidateError  this node can never become primary
    ├── LinkClosedError        the other process is gone; what was asked may or may not have happened
    ├── LinkSilentError        the other process hangs; it may do later what was asked
    └── PeerError              the other node broke the protocol or went silent; the connection is dropped
        └── PeerRefusedError   it does not want us, or is not ours; asking again soon changes nothing

Boundaries translate once, by table: `filesystem/errno_table.py` (errno), `http/status_table.py`
(HTTP status), `cli/exit_codes.py` (exit code). What is in no table is EIO, 500 or 1, with a traceback.

More stand where they are raised: refused requests in `http/errors.py`, a gap in the log in `storage/log_reader.py`, a
call for help in `cli/flags.py`.
"""


class LiteFSError(Exception):
    """The root of everything LiteFS raises on purpose."""


class FormatError(LiteFSError):
    """Bytes from disk or network are not what they claim to be. Nothing was applied."""


class ChecksumError(FormatError):
    """The bytes parse, but a checksum over them does not hold. Nothing was applied."""


class NeedMoreData(LiteFSError):
    """The input is a proper prefix of something valid: feed more."""


class ConfigError(LiteFSError):
    """The configuration is refused. Nothing was created."""


class StorageError(LiteFSError):
    """The data directory cannot be trusted or used."""


class DataDirLockedError(StorageError):
    """Another process owns the data directory. Nothing was touched."""


class DataDirVersionError(StorageError):
    """The data directory was written by a version this one does not understand. Nothing was touched."""


class CorruptStateError(StorageError):
    """Base, state file and log of a database do not add up. Nothing was deleted."""


class DiskLostError(StorageError):
    """A disk call that must not fail has failed: durability is unknown, so the process must stop."""


class CommitRefusedError(LiteFSError):
    """The transaction is not in the log and never will be. SQLite rolls it back and reports an error."""


class NotPrimaryError(CommitRefusedError):
    """This node may not commit now: it is a replica, or its lease ran out."""


class UncapturedWriteError(CommitRefusedError):
    """A write that no rollback journal or WAL announces cannot be replicated, so it is refused."""


class PositionMismatchError(LiteFSError):
    """An image does not follow the position it was offered to. Nothing was applied."""


class LockHeldError(LiteFSError):
    """An application holds a SQLite lock that is needed. Nothing was done; trying again is right."""


class LeaseError(LiteFSError):
    """The lease could not be changed or confirmed as asked."""


class LeaseLostError(LeaseError):
    """This node does not hold the lease. Another node may hold it already."""


class LeaseUnavailableError(LeaseError):
    """Whoever keeps the lease did not answer. What was asked may or may not have happened."""


class HandoffRefusedError(LiteFSError):
    """The lease is not handed over; it stays where it is."""


class NotCandidateError(HandoffRefusedError):
    """This node can never become primary: its configuration says so."""


class LinkClosedError(LiteFSError):
    """The other process is gone. What was asked of it may or may not have happened."""


class LinkSilentError(LiteFSError):
    """The other process is there and does not answer. What was asked of it may still happen, when it goes on."""


class PeerError(LiteFSError):
    """The other node broke the protocol or went silent. The connection is dropped, nothing was applied."""


class PeerRefusedError(PeerError):
    """The other node has another token or belongs to another cluster. Asking again soon changes nothing."""
