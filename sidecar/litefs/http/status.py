"""Where a node stands, as the JSON of `GET /info` (LiteFS's) and `GET /status` (ours).

`/status` grows by fields; a reader ignores those that it does not know.
"""

import json
import time
import zlib
from collections.abc import Iterable, Mapping
from math import isfinite

import msgspec

from litefs.http.followers import Follower
from litefs.link.messages import DatabaseInfo
from litefs.node.node_status import NodeStatus

CUT_OFF_MS = 10_000
"""A replica that has heard nothing of its primary for longer counts as cut off, for the operator as well."""


class DatabaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One database.

    Attributes:
        position: `txid/checksum`, 16 hexadecimal digits each, as in the file `NAME-pos`.
        pending_n: transactions that are in the log and not yet applied.
        journal: "wal" or "rollback".
        timestamp_ms: Unix time of the last transaction, in milliseconds; 0 if unknown.
    """

    name: str
    position: str
    page_size: int
    page_n: int
    journal: str
    pending_n: int
    timestamp_ms: int


class FollowerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica that follows this node.

    Attributes:
        node_id: 16 hexadecimal digits; "" if it did not introduce itself.
        connected_s: seconds since it called.
        ready: it has been brought to this node's position once.
        behind_n: transactions that have not been sent to it yet, over all databases.
    """

    node_id: str
    address: str
    connected_s: float
    ready: bool
    behind_n: int
    sent_bytes: int
    positions: dict[str, str]


class HandoffOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `POST /handoff?nodeID=freshest`.

    Attributes:
        was_primary: this node was the primary when it was asked.
        node_id: who has taken the lease, 16 hexadecimal digits; "" if nobody: a replica has none to give, and of a
            primary nobody could take it, which then is the primary as before.
    """

    was_primary: bool
    node_id: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `GET /status`.

    Attributes:
        role: what the node plays now: starting, replica, candidate, acquiring, primary, handing-off, demoting, stopped.
        ready: the node is primary, or has caught up with one since it started.
        obstacle: why it is not ready, in words; "" if it is.
        lag_ms: age of the newest sign of the primary; null before the first.
        lease_remaining_s: how long commits go on if the lease is not renewed; null with a static lease.
        durability: `data.durability` of its configuration: which commits a primary answers only when they are durable.
        standing: see `standing_of`.
    """

    node_id: str
    cluster_id: str
    role: str
    candidate: bool
    ready: bool
    primary_hostname: str
    lag_ms: int | None
    databases: list[DatabaseStatus]
    followers: list[FollowerStatus]
    lease_remaining_s: float | None = None
    obstacle: str = ""
    durability: str = "as-asked"
    standing: str = ""


def standing_of(status: NodeStatus) -> str:
    """Returns a word that is another one when there is news of a node: more than positions, lags and reasons."""
    is_cut_off = not status.is_primary and (status.lag_ms is None or status.lag_ms > CUT_OFF_MS)
    has_expired = status.is_primary and status.lease_remaining_s <= 0.0
    who = (status.node_id, status.cluster_id, status.candidate, status.primary_hostname)
    return f"{zlib.crc32(repr((*who, status.role, status.ready, is_cut_off, has_expired)).encode()):08x}"


def status_document(status: NodeStatus, databases: Mapping[str, DatabaseInfo], followers: Iterable[Follower]) -> bytes:
    """Returns the JSON of `GET /status`."""
    document = Status(
        node_id=f"{status.node_id:016X}",
        cluster_id=status.cluster_id,
        role=status.role,
        candidate=status.candidate,
        ready=status.ready,
        obstacle=status.obstacle,
        primary_hostname=status.primary_hostname,
        lag_ms=status.lag_ms,
        databases=[_database_status(database) for _, database in sorted(databases.items())],
        followers=[_follower_status(follower, databases) for follower in followers],
        lease_remaining_s=round(status.lease_remaining_s, 3) if isfinite(status.lease_remaining_s) else None,
        standing=standing_of(status),
        durability="every-commit" if status.syncs_every_commit else "as-asked",
    )
    return msgspec.json.encode(document) + b"\n"


def info_document(status: NodeStatus, data_dir: str) -> bytes:
    """Returns the JSON of `GET /info`, field for field and space for space that of LiteFS 0.5."""
    fields: dict[str, object] = {"clusterID": status.cluster_id} if status.cluster_id else {}
    fields |= {
        "isPrimary": status.is_primary,
        "candidate": status.candidate,
        "path": data_dir,
        "primary": {"hostname": status.primary_hostname},
    }
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def vars_document(status: NodeStatus, databases: Mapping[str, DatabaseInfo]) -> bytes:
    """Returns the JSON of `GET /debug/vars`: LiteFS's own variable, without the locks, which the kernel has here."""
    store = {
        "isPrimary": status.is_primary,
        "candidate": status.candidate,
        "dbs": {
            name: {"name": name, "txid": f"{database.txid:016x}", "checksum": f"{database.checksum:016x}"}
            for name, database in sorted(databases.items())
        },
    }
    return json.dumps({"store": store}, ensure_ascii=False).encode() + b"\n"


def _database_status(database: DatabaseInfo) -> DatabaseStatus:
    return DatabaseStatus(
        name=database.name,
        position=f"{database.txid:016x}/{database.checksum:016x}",
        page_size=database.page_size,
        page_n=database.page_n,
        journal="wal" if database.is_wal else "rollback",
        pending_n=max(database.logged_txid - database.txid, 0),
        timestamp_ms=database.timestamp_ms,
    )


def _follower_status(follower: Follower, databases: Mapping[str, DatabaseInfo]) -> FollowerStatus:
    return FollowerStatus(
        node_id=follower.node_id,
        address=follower.address,
        connected_s=round(time.monotonic() - follower.since, 3),
        ready=follower.ready,
        behind_n=follower.behind_n(databases),
        sent_bytes=follower.sent_bytes,
        positions={name: str(pos) for name, pos in sorted(follower.positions.items())},
    )
