"""`litefs status`: the role, the lag, the databases and the followers of a node, as tables."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from litefs.cli import api_client
from litefs.cli.flags import Flag, Usage
from litefs.cli.units import format_size
from litefs.errors import PeerError
from litefs.http.status import DatabaseStatus, FollowerStatus, Status

USAGE = Usage(
    synopsis="litefs status [-url URL] [-json]",
    text="""
Shows where a node stands.

examples:
  litefs status
  litefs status -url http://replica:20202 -json

exit codes: 0 shown, 1 the node cannot be reached or does not answer, 2 wrong usage
""",
    flags=(
        Flag(name="url", value_name="URL", help="API of the node", default=api_client.DEFAULT_URL),
        Flag(name="json", help="print the node's answer as it is"),
    ),
)

_DATABASE_HEADER = ("DATABASE", "TXID", "CHECKSUM", "SIZE", "JOURNAL", "PENDING", "LAST CHANGE")
_FOLLOWER_HEADER = ("FOLLOWER", "ADDRESS", "CONNECTED", "READY", "BEHIND", "SENT")


def run(arguments: Sequence[str]) -> int:
    """Prints the status of one node.

    Raises:
        ConfigError: wrong usage.
        PeerError: the node cannot be reached, or its answer is no status.
    """
    parsed = USAGE.parse(arguments)
    url = parsed.texts["url"]
    with api_client.request(url, "GET", "/status") as response:
        document = response.read()
    if "json" in parsed.switches:
        sys.stdout.write(document.decode())
        return 0
    try:
        status = msgspec.json.decode(document, type=Status)
    except msgspec.MsgspecError as error:
        raise PeerError(f"{url}/status: {error}") from error
    print(render(status))
    return 0


def render(status: Status) -> str:
    """Returns the status as text."""
    facts = [
        ("node", status.node_id),
        ("cluster", status.cluster_id or "unknown"),
        ("role", status.role),
        ("candidate", "yes" if status.candidate else "no"),
        ("ready", "yes" if status.ready else "no"),
        ("primary", status.primary_hostname or "unknown"),
        ("lag", "unknown" if status.lag_ms is None else f"{status.lag_ms} ms"),
    ]
    parts = ["\n".join(f"{name + ':':<11}{value}" for name, value in facts)]
    if status.databases:
        parts.append(table(_DATABASE_HEADER, map(_database_row, status.databases)))
    if status.followers:
        parts.append(table(_FOLLOWER_HEADER, map(_follower_row, status.followers)))
    return "\n\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows as text, each column as wide as its widest cell."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_time(timestamp_ms: int) -> str:
    """Returns a Unix time in milliseconds as UTC text; a dash when it is unknown."""
    if not timestamp_ms:
        return "-"
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _database_row(database: DatabaseStatus) -> tuple[str, ...]:
    txid, _, checksum = database.position.partition("/")
    size = format_size(database.page_size * database.page_n)
    changed = format_time(database.timestamp_ms)
    return (database.name, txid, checksum, size, database.journal, str(database.pending_n), changed)


def _follower_row(follower: FollowerStatus) -> tuple[str, ...]:
    return (
        follower.node_id or "-",
        follower.address,
        f"{follower.connected_s:.0f} s",
        "yes" if follower.ready else "no",
        str(follower.behind_n),
        format_size(follower.sent_bytes),
    )
