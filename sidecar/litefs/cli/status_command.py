"""`litefs status`: the role, the lag, the databases and the followers of a node, as tables."""

import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from litefs.cli import api_client
from litefs.cli.flags import Flag, Usage
from litefs.cli.units import format_size
from litefs.errors import ConfigError, PeerError
from litefs.http.status import DatabaseStatus, FollowerStatus, Status

USAGE = Usage(
    synopsis="litefs status [-url URL] [-json] [-watch] [-interval SECONDS]",
    text="""
Shows where a node stands: once, or with -watch until it is interrupted. While it is watched, a node that cannot be
reached is reported and asked again.

examples:
  litefs status
  litefs status -url http://replica:20202 -json
  litefs status -watch -interval 0.5

exit codes: 0 shown, 1 the node cannot be reached or does not answer, 2 wrong usage
""",
    flags=(
        Flag(name="url", value_name="URL", help="API of the node", default=api_client.DEFAULT_URL),
        Flag(name="json", help="print the node's answer as it is"),
        Flag(name="watch", help="show it again and again"),
        Flag(name="interval", value_name="SECONDS", help="pause between two looks of -watch", default="2"),
    ),
)

_DATABASE_HEADER = ("DATABASE", "TXID", "CHECKSUM", "SIZE", "JOURNAL", "PENDING", "LAST CHANGE")
_FOLLOWER_HEADER = ("FOLLOWER", "ADDRESS", "CONNECTED", "READY", "BEHIND", "SENT")


INTERVAL_S_MIN = 0.1

_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def run(arguments: Sequence[str]) -> int:
    """Prints the status of one node.

    Raises:
        ConfigError: wrong usage.
        PeerError: the node cannot be reached, or its answer is no status.
    """
    parsed = USAGE.parse(arguments)
    url, as_json = parsed.texts["url"], "json" in parsed.switches
    interval_s = _interval_of(parsed.texts["interval"])
    if "watch" not in parsed.switches:
        sys.stdout.write(look(url, as_json=as_json))
        return 0
    try:
        while True:
            _show(url, as_json=as_json)
            time.sleep(interval_s)
    except (KeyboardInterrupt, BrokenPipeError):
        # Whoever watched has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def look(url: str, *, as_json: bool) -> str:
    """Returns a node's status as text that ends with a newline.

    Raises:
        ConfigError: `url` is none.
        PeerError: the node cannot be reached, or its answer is no status.
    """
    with api_client.request(url, "GET", "/status") as response:
        document = response.read()
    if as_json:
        return document.decode()
    try:
        return render(msgspec.json.decode(document, type=Status)) + "\n"
    except msgspec.MsgspecError as error:
        raise PeerError(f"{url}/status: {error}") from error


def _show(url: str, *, as_json: bool) -> None:
    try:
        text = look(url, as_json=as_json)
    except PeerError as error:
        text = "" if as_json else f"{error}\n"
    now = datetime.now(UTC).strftime("%H:%M:%S")
    head = "" if as_json else f"{_CLEAR if sys.stdout.isatty() else ''}{now} UTC, {url}\n\n"
    sys.stdout.write(head + text + ("" if as_json else "\n"))
    sys.stdout.flush()


def _interval_of(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = 0.0
    if not INTERVAL_S_MIN <= interval_s < math.inf:
        raise ConfigError(f"-interval {text}: expected seconds, at least {INTERVAL_S_MIN}")
    return interval_s


def render(status: Status) -> str:
    """Returns the status as text."""
    facts = [
        ("node", status.node_id),
        ("cluster", status.cluster_id or "unknown"),
        ("role", status.role),
        ("candidate", "yes" if status.candidate else "no"),
        ("ready", "yes" if status.ready else f"no: {status.obstacle}" if status.obstacle else "no"),
        ("primary", status.primary_hostname or ("this node" if status.role == "primary" else "unknown")),
        ("lag", "unknown" if status.lag_ms is None else f"{status.lag_ms} ms"),
        ("durability", status.durability),
    ]
    if status.lease_remaining_s:
        facts.append(("lease", f"{status.lease_remaining_s:.1f} s"))
    parts = ["\n".join(f"{name + ':':<12}{value}" for name, value in facts)]
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
    """Returns a Unix time in milliseconds as UTC text; a dash when it is unknown, or none."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if timestamp_ms else "-"
    except (ValueError, OverflowError):
        return "-"


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
