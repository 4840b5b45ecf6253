"""The typed messages between the filesystem process and the node process.

Strategy: the node asks, the filesystem answers in the order of the questions; besides, the filesystem
tells. A `Committed` is sent for a database only when the node has acknowledged the one before by
asking for more (`Seen`), so a fast writer costs one message per round trip and not one per commit. While nobody
listens at the node (`SetListening`), the next one waits a little longer.

    node → filesystem                       answer
    Hello(pid)                              Welcome(databases)
    SetRole, SetPrimary, SetLag             (none)
    SetListening                            (none)
    Ping                                    Pong, ahead of answers that take longer
    Seen, Applied                           (none)
    AppendImages, AppendSpooledImage        Appended | Rejected
    OpenSnapshot                            SnapshotOpened | Rejected
    CloseSnapshot                           (none)
    AskCounters                             Counters
    KeepLogs                                (none)
    PrepareReplacement                      ReplacementReady | Rejected
    RefuseOpens                             OpensRefused

    filesystem → node, unasked
    Committed                               a database moved to a new position
    ShmCreated                              an application (or we) made a `-shm`: keep it mapped
    NotReached                              what was applied is not the state that its image names

All integers fit 64 bits unsigned; times are Unix milliseconds unless the name says otherwise;
`primary_until` is `time.monotonic()` of this machine, which both processes share.
"""

import msgspec


class DatabaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where one database stands.

    Attributes:
        name: file name in the mount.
        txid: transaction that readers see; 0 before the first commit.
        checksum: of the whole database at `txid`.
        logged_txid: last image in the log; greater than `txid` when images wait to be applied.
        page_size: bytes; 0 before the first commit.
        page_n: pages at `txid`; 0 for a dropped or never written database.
        is_wal: the database is in WAL mode.
        timestamp_ms: of the image `txid`; 0 if unknown.
    """

    name: str
    txid: int
    checksum: int
    logged_txid: int
    page_size: int
    page_n: int
    is_wal: bool
    timestamp_ms: int = 0


# ---- node → filesystem ----


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message, and again where positions stand still. `pid` is the node process, whose opens are appliers'."""

    pid: int


class SetRole(msgspec.Struct, frozen=True, tag="set-role"):
    """Commits are accepted until `primary_until` (monotonic seconds); 0 makes this node a replica."""

    primary_until: float


class SetPrimary(msgspec.Struct, frozen=True, tag="set-primary"):
    """What `.primary` shows; empty removes the file (this node is primary, or none is known)."""

    hostname: str


class SetLag(msgspec.Struct, frozen=True, tag="set-lag"):
    """Newest time stamp heard from the primary, for `.lag`; -1 while this replica is not ready."""

    primary_timestamp_ms: int


class SetListening(msgspec.Struct, frozen=True, tag="set-listening"):
    """Whether somebody at the node waits for news of commits. Nobody does at first."""

    is_listening: bool


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Asks for a sign of life."""


class RefuseOpens(msgspec.Struct, frozen=True, tag="refuse-opens"):
    """The mount is about to go: from the answer on no application opens a file, and no `-shm` grows."""


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """The node has taken note of `Committed` for this database; the next may be sent."""

    name: str


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The images through `txid` were applied: every new reader of this replica sees what the database is there."""

    name: str
    txid: int


class AppendImages(msgspec.Struct, frozen=True, tag="append-images"):
    """Put verified images, at least one, into the log of a replica. They are applied through the mount afterwards."""

    name: str
    images: list[bytes]


class AppendSpooledImage(msgspec.Struct, frozen=True, tag="append-spooled-image"):
    """The same for one image too large for a message: `path` is a file under the data directory."""

    name: str
    path: str


class OpenSnapshot(msgspec.Struct, frozen=True, tag="open-snapshot"):
    """Freeze the current position of a database for reading, without stopping its writers."""

    name: str


class AskCounters(msgspec.Struct, frozen=True, tag="ask-counters"):
    """What has been counted since the filesystem process started, for the metrics."""


class KeepLogs(msgspec.Struct, frozen=True, tag="keep-logs"):
    """Replicas that are behind need the images behind these transactions. Takes the place of what was said before.

    `needed`: by database, ascending; databases that nobody needs old images of are not in it.
    `is_last`: what was said is complete; else the next message goes on with other databases.
    """

    needed: dict[str, list[int]]
    is_last: bool = True


class CloseSnapshot(msgspec.Struct, frozen=True, tag="close-snapshot"):
    """The snapshot is read; what was copied aside for it may go."""

    snapshot_id: int


class PrepareReplacement(msgspec.Struct, frozen=True, kw_only=True, tag="prepare-replacement"):
    """A whole new state lies complete and synced in the files `incoming` of the database: they are ours no more.

    `storage.incoming` wrote them. When the answer is `ReplacementReady`, the node renames `mount_name`
    to the database's name *through the mount*; that rename is the flip.

    `keeps_diverged`: the old state goes to `dbs-aside` if it may hold what only this node has.
    """

    name: str
    txid: int
    checksum: int
    page_size: int
    page_n: int
    timestamp_ms: int
    incoming: str
    keeps_diverged: bool = False


# ---- filesystem → node ----


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """Answer to `Hello`: every database of this node."""

    databases: list[DatabaseInfo]


class Appended(msgspec.Struct, frozen=True, tag="appended"):
    """The images through `txid` are in the log (not necessarily synced).

    `reason`: why those behind it are not; "" if all are.
    """

    name: str
    txid: int
    reason: str = ""


class SnapshotOpened(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot-opened"):
    """How to read the snapshot: `storage.snapshot.SnapshotReader` takes this message.

    Attributes:
        base_txid: S: the base file is complete up to here; newer pages lie in the log.
        aside_path: sparse file with the old content of base pages overwritten since; page i at i-1 times page size.
        aside_map_path: one byte per page, set before the base page is overwritten.
    """

    snapshot_id: int
    name: str
    txid: int
    checksum: int
    page_size: int
    page_n: int
    timestamp_ms: int
    base_txid: int
    base_path: str
    aside_path: str
    aside_map_path: str


class ReplacementReady(msgspec.Struct, frozen=True, tag="replacement-ready"):
    """The node may flip: rename `mount_name` over the database, both in the mount's root."""

    name: str
    mount_name: str


class OpensRefused(msgspec.Struct, frozen=True, tag="opens-refused"):
    """Answer to `RefuseOpens`: the names of the `-shm` that there are."""

    shm_names: list[str]


class Counters(msgspec.Struct, frozen=True, kw_only=True, tag="counters"):
    """Answer to `AskCounters`.

    Attributes:
        refused_n: writes and commits that were refused, by reason.
        commit_latencies: by database, see `storage.latency`: the counts of the buckets, and the sum in seconds.
    """

    refused_n: dict[str, int]
    commit_latencies: dict[str, tuple[list[int], float]]


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """What was asked was not done. `txid`/`checksum` are the database's position (0 if unknown)."""

    name: str
    reason: str
    txid: int = 0
    checksum: int = 0


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """A database moved to a new position: a local commit, an applied image, a replacement or a drop."""

    database: DatabaseInfo


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """The filesystem process takes messages. How long the oldest sync of a log has been waiting for the disk."""

    sync_wait_s: float = 0.0


class NotReached(msgspec.Struct, frozen=True, tag="not-reached"):
    """The images through `txid` were applied, and do not lead to the state that they name: nothing was changed."""

    name: str
    txid: int


class ShmCreated(msgspec.Struct, frozen=True, tag="shm-created"):
    """The `-shm` of this database exists now."""

    name: str


NodeMessage = (
    Hello
    | SetRole
    | SetPrimary
    | SetLag
    | SetListening
    | Ping
    | Seen
    | Applied
    | AppendImages
    | AppendSpooledImage
    | OpenSnapshot
    | CloseSnapshot
    | AskCounters
    | KeepLogs
    | PrepareReplacement
    | RefuseOpens
)
Answer = Counters | Welcome | Appended | SnapshotOpened | ReplacementReady | OpensRefused | Rejected
FilesystemMessage = Answer | Committed | ShmCreated | NotReached | Pong
