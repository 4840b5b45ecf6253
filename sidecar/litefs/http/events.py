"""The body of `GET /events`: one JSON object a line for each transaction and each change of the primary.

Strategy: the feed says which databases moved, and may skip positions when they move fast. The skipped
transactions are read back from the headers in the log, so every one gets its line. Nothing is queued for a
reader: a slow one is served later from the log, and dropped when it takes nothing at all.

Source: LiteFS 0.5.14, GET /events.
"""

import json
from collections.abc import Generator
from concurrent.futures import Executor
from datetime import UTC, datetime

from litefs.errors import FormatError
from litefs.formats.ltx import HEADER_SIZE, LtxHeader
from litefs.http.feed import CommitFeed
from litefs.http.node_view import NodeView
from litefs.http.pump import Write, pump
from litefs.link.messages import DatabaseInfo
from litefs.node.node_status import NodeStatus
from litefs.storage.log_reader import LogGapError, LogReader

TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 through 9999."""

ROLE_CHECK_S = 1.0
"""How soon a change of the primary is told."""


class EventStream:
    """One reader's stream of events."""

    def __init__(self, node: NodeView, feed: CommitFeed, executor: Executor) -> None:
        """Args: executor: reads the log."""
        self._node = node
        self._feed = feed
        self._executor = executor
        self._seen = {name: database.txid for name, database in feed.positions.items()}

    async def run(self, write: Write) -> None:
        """Writes the lines until the feed closes."""
        subscription = self._feed.subscribe()
        subscription.take()
        try:
            primary = _primary_of(self._node.status())
            await write(_line("init", primary))
            while not subscription.closed:
                await subscription.wait(ROLE_CHECK_S)
                for name in subscription.take():
                    await self._tell(self._feed.positions[name], write)
                if primary != (primary := _primary_of(self._node.status())):
                    await write(_line("primaryChange", primary))
        finally:
            self._feed.unsubscribe(subscription)

    async def _tell(self, database: DatabaseInfo, write: Write) -> None:
        seen = self._seen.get(database.name, 0)
        self._seen[database.name] = database.txid
        if database.txid == seen:
            return
        if database.txid > seen + 1:
            await pump(self._executor, self._skipped(database, seen), write)
        await write(
            _transaction(
                database.name,
                database.txid,
                database.checksum,
                database.page_size,
                database.page_n,
                database.timestamp_ms,
            )
        )

    def _skipped(self, database: DatabaseInfo, seen: int) -> Generator[bytes, None, None]:
        """Yields the lines of the transactions between the last one told and the newest, as far as the log has them."""
        log = LogReader(self._node.data_dir / "dbs" / database.name / "log")
        try:
            for ref in log.images(seen + 1, database.txid - 1):
                header = LtxHeader.decode(log.read(ref, 0, HEADER_SIZE))
                yield _transaction(
                    database.name, ref.max_txid, ref.post_apply, header.page_size, header.commit, header.timestamp_ms
                )
        except (LogGapError, FormatError):
            return  # replaced as a whole meanwhile, or retained no longer: the newest position is what is left to tell
        finally:
            log.close()


def _primary_of(status: NodeStatus) -> dict[str, object]:
    hostname = "" if status.is_primary else status.primary_hostname
    return {"isPrimary": status.is_primary} | ({"hostname": hostname} if hostname else {})


def _transaction(name: str, txid: int, checksum: int, page_size: int, page_n: int, timestamp_ms: int) -> bytes:
    data = {
        "txID": f"{txid:016x}",
        "postApplyChecksum": f"{checksum:016x}",
        "pageSize": page_size,
        "commit": page_n,
        "timestamp": rfc3339(timestamp_ms),
    }
    return _line("tx", data, db=name)


def _line(kind: str, data: dict[str, object], **fields: str) -> bytes:
    return (
        json.dumps({"type": kind, **fields, "data": data}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    )


def rfc3339(timestamp_ms: int) -> str:
    """Returns a Unix time in milliseconds as Go writes it: in UTC, the fraction without trailing zeros.

    One of a year that has not four digits, which only a broken image has, becomes the nearest that has.
    """
    seconds, ms = divmod(min(max(timestamp_ms, TIMESTAMP_MS_MIN), TIMESTAMP_MS_MAX), 1000)
    fraction = f".{ms:03d}".rstrip("0") if ms else ""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat() + fraction + "Z"
