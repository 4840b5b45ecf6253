"""What `GET /metrics` reports, under LiteFS's names where it has one, under ours beside them.

Strategy: nothing is counted twice. A scrape reads the feed, the followers and the node, asks the filesystem process
for what that has counted, and turns all of it into samples; between scrapes monitoring costs next to nothing. That
goes on beside the event loop, for many databases take a while: what the loop changes meanwhile is copied first.
docs/metrics.md lists them; a test holds the list against this module.

LiteFS's counts of writes per kind of file are not reported: requests do not mean here what they mean there.

Source: LiteFS 0.5.14, GET /metrics.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from math import isfinite
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from litefs.errors import LinkClosedError, LinkSilentError
from litefs.http.feed import CommitFeed
from litefs.http.followers import Followers
from litefs.http.node_view import NodeView
from litefs.link.messages import AskCounters, Counters
from litefs.node.roles import Role
from litefs.storage.latency import BOUNDS_S
from litefs.storage.log_format import segment_txid

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STAT_BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system's own is."""

_OUR_COUNTER_HEADS = re.compile(rb"(?m)^(# (?:HELP|TYPE) litefs_\w+)_total ")


class Metrics:
    """The registry of one node."""

    def __init__(self, node: NodeView, feed: CommitFeed, followers: Followers) -> None:
        """Args: followers: the streams that are served."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(node, feed, followers))
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Returns all samples in Prometheus's text format 0.0.4. Waits for the filesystem process and for the disk."""
        # The library ends counters in `_total`; LiteFS's names, and dashboards made for them, do not.
        return _OUR_COUNTER_HEADS.sub(rb"\1 ", generate_latest(self._registry))


class _NodeCollector(Collector):
    def __init__(self, node: NodeView, feed: CommitFeed, followers: Followers) -> None:
        self._node = node
        self._feed = feed
        self._followers = followers

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics of the node, its databases and its followers."""
        yield from self._of_node()
        yield from self._of_databases()
        yield from self._of_followers()
        yield from self._of_filesystem()

    def _of_node(self) -> Iterator[Metric]:
        status = self._node.status()
        yield _gauge("litefs_db_count", "Number of managed databases.", len(self._feed.positions))
        yield _gauge("litefs_is_primary", "Primary status of the node.", status.is_primary)
        yield _gauge("litefs_ready", "Whether the node is primary or has caught up once.", status.ready)
        yield _gauge("litefs_candidate", "Whether the node may become primary, or is.", status.candidate)
        yield _gauge("litefs_subscriber_count", "Number of connected subscribers", self._feed.subscriber_n)
        if status.lag_ms is not None:
            yield _gauge("litefs_lag_seconds", "Lag behind the primary node, in seconds", status.lag_ms / 1000)
        roles = [({"role": known.value}, known.value == status.role) for known in Role]
        yield _metric("litefs_role", "The node's role: 1 for the one that it plays.", "gauge", roles)
        if isfinite(status.lease_remaining_s):
            text = "Time for which commits go on if the lease is not renewed, in seconds."
            yield _gauge("litefs_lease_remaining_seconds", text, status.lease_remaining_s)
        events = [({"event": name.replace("_", "-")}, n) for name, n in asdict(self._node.counters()).items()]
        yield _metric("litefs_lease_event_count", "What happened to role and lease.", "counter", events)

    def _of_filesystem(self) -> Iterator[Metric]:
        try:
            counters = self._node.call(AskCounters())
        except (LinkClosedError, LinkSilentError):
            return
        assert isinstance(counters, Counters), counters
        refused = [({"reason": reason}, n) for reason, n in sorted(counters.refused_n.items())]
        yield _metric("litefs_refused_count", "Writes and commits that were refused.", "counter", refused)
        latencies = HistogramMetricFamily(
            "litefs_db_commit_seconds", "Time from the image of a commit to its acceptance.", labels=["db"]
        )
        for name, (counts, sum_s) in sorted(counters.commit_latencies.items()):
            bounds = [*map(str, BOUNDS_S), "+Inf"]
            latencies.add_metric([name], list(zip(bounds, accumulate(counts), strict=True)), sum_s)
        yield latencies

    def _of_databases(self) -> Iterator[Metric]:
        databases = sorted(self._feed.positions.items())
        lag_s = (self._node.status().lag_ms or 0) / 1000

        def each(name: str, documentation: str, values: Iterable[float], kind: str = "gauge") -> Metric:
            labels = ({"db": database} for database, _ in databases)
            return _metric(name, documentation, kind, zip(labels, values, strict=True))

        known = [database for _, database in databases]
        pending = [max(database.logged_txid - database.txid, 0) for database in known]
        yield each("litefs_db_txid", "Current transaction ID.", (database.txid for database in known))
        yield each("litefs_db_pages", "Size of the database in pages.", (database.page_n for database in known))
        yield each("litefs_db_pending_txn_count", "Number of transactions waiting to be applied.", pending)
        text = "The node's lag while transactions of this database wait to be applied, in seconds."
        yield each("litefs_db_lag_seconds", text, (lag_s if n else 0.0 for n in pending))
        commits = (self._feed.commit_n[name] for name, _ in databases)
        yield each("litefs_db_commit_count", "Number of database commits.", commits, "counter")
        extents = [_log_extent(self._node.data_dir / "dbs" / name / "log") for name, _ in databases]
        image_ns = (
            max(database.logged_txid - first_txid + 1, 0) if first_txid else 0
            for database, (first_txid, _) in zip(known, extents, strict=True)
        )
        yield each("litefs_db_ltx_count", "Number of LTX files on disk.", image_ns)
        yield each("litefs_db_ltx_bytes", "Number of bytes used by LTX files on disk.", (size for _, size in extents))

    def _of_followers(self) -> Iterator[Metric]:
        followers, databases = self._followers, dict(self._feed.positions)
        connected = list(followers.connected)
        yield _gauge("litefs_http_stream_count", "Number of streams currently connected.", len(connected))
        text = "Streams dropped for want of a sign of life."
        yield _metric("litefs_follower_silent_count", text, "counter", [({}, followers.silent_n)])
        frames = [({"db": name, "type": kind}, n) for (name, kind), n in sorted(followers.frame_counts.items())]
        yield _metric("litefs_http_frame_send_count", "Number of frames sent.", "counter", frames)
        labels = [{"node": each.node_id, "address": each.address} for each in connected]
        sent = zip(labels, (each.sent_bytes for each in connected), strict=True)
        yield _metric("litefs_follower_sent_bytes", "Bytes of the stream sent to a follower.", "gauge", sent)
        behind = zip(labels, (each.behind_n(databases) for each in connected), strict=True)
        yield _metric("litefs_follower_behind_txn_count", "Transactions not yet sent to a follower.", "gauge", behind)


def _log_extent(log_dir: Path) -> tuple[int, int]:
    """Returns the first transaction of a log, 0 if it is empty, and the bytes that the log takes on disk."""
    first_txid = size = 0
    with suppress(FileNotFoundError), os.scandir(log_dir) as entries:
        for entry in entries:
            txid = segment_txid(entry.name)
            if txid is not None:
                first_txid = min(first_txid or txid, txid)
                size += entry.stat().st_blocks * STAT_BLOCK_BYTES
    return first_txid, size


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return _metric(name, documentation, "gauge", [({}, value)])


def _metric(name: str, documentation: str, kind: str, samples: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(name, documentation, kind)
    for labels, value in samples:
        metric.add_sample(name, labels, float(value))
    return metric
