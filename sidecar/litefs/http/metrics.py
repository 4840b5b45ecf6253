"""What `GET /metrics` reports, under LiteFS's names where it has one, under ours beside them.

Strategy: nothing is counted twice. A scrape reads the feed, the followers and the node, asks the filesystem process
for what that has counted, and turns all of it into samples; between scrapes monitoring costs next to nothing.
docs/metrics.md lists them; a test holds the list against this module.

LiteFS's counts of writes per kind of file are not reported: requests do not mean here what they mean there.

Source: LiteFS 0.5.14, GET /metrics.
"""

import os
import re
from collections.abc import Iterator
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
        self._node = node
        self._collector = _NodeCollector(node, feed, followers)
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)

    def ask(self) -> Counters | None:
        """Returns what the filesystem process has counted, waiting for it; None if it is gone or hangs."""
        try:
            counters = self._node.call(AskCounters())
        except (LinkClosedError, LinkSilentError):
            return None
        assert isinstance(counters, Counters), counters
        return counters

    def exposition(self, counters: Counters | None) -> bytes:
        """Returns all samples in Prometheus's text format 0.0.4, those of `counters` among them."""
        self._collector.counters = counters
        # The library ends counters in `_total`; LiteFS's names, and dashboards made for them, do not.
        return _OUR_COUNTER_HEADS.sub(rb"\1 ", generate_latest(self._registry))


class _NodeCollector(Collector):
    def __init__(self, node: NodeView, feed: CommitFeed, followers: Followers) -> None:
        self._node = node
        self._feed = feed
        self._followers = followers
        self.counters: Counters | None = None

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics of the node, its databases and its followers."""
        yield from self._of_node()
        yield from self._of_databases()
        yield from self._of_followers()
        yield from self._of_filesystem()

    def _of_node(self) -> Iterator[Metric]:
        status = self._node.status()
        yield _value("litefs_db_count", "Number of managed databases.", len(self._feed.positions))
        yield _value("litefs_is_primary", "Primary status of the node.", status.is_primary)
        yield _value("litefs_ready", "Whether the node is primary or has caught up once.", status.ready)
        yield _value("litefs_candidate", "Whether the node may become primary, or is.", status.candidate)
        yield _value("litefs_subscriber_count", "Number of connected subscribers", self._feed.subscriber_n)
        if status.lag_ms is not None:
            yield _value("litefs_lag_seconds", "Lag behind the primary node, in seconds", status.lag_ms / 1000)
        role = Metric("litefs_role", "The node's role: 1 for the one that it plays.", "gauge")
        for known in Role:
            role.add_sample("litefs_role", {"role": known.value}, float(known.value == status.role))
        yield role
        if isfinite(status.lease_remaining_s):
            text = "Time for which commits go on if the lease is not renewed, in seconds."
            yield _value("litefs_lease_remaining_seconds", text, status.lease_remaining_s)
        events = Metric("litefs_lease_event_count", "What happened to role and lease.", "counter")
        for name, count in asdict(self._node.counters()).items():
            events.add_sample("litefs_lease_event_count", {"event": name.replace("_", "-")}, count)
        yield events

    def _of_filesystem(self) -> Iterator[Metric]:
        counters = self.counters
        if counters is None:
            return
        refused = Metric("litefs_refused_count", "Writes and commits that were refused.", "counter")
        for reason, count in sorted(counters.refused_n.items()):
            refused.add_sample("litefs_refused_count", {"reason": reason}, count)
        yield refused
        latencies = HistogramMetricFamily(
            "litefs_db_commit_seconds", "Time from the image of a commit to its acceptance.", labels=["db"]
        )
        for name, (counts, sum_s) in sorted(counters.commit_latencies.items()):
            bounds = [*map(str, BOUNDS_S), "+Inf"]
            latencies.add_metric([name], list(zip(bounds, accumulate(counts), strict=True)), sum_s)
        yield latencies

    def _of_databases(self) -> Iterator[Metric]:
        databases = sorted(self._feed.positions.items())
        txids = Metric("litefs_db_txid", "Current transaction ID.", "gauge")
        pages = Metric("litefs_db_pages", "Size of the database in pages.", "gauge")
        pending = Metric("litefs_db_pending_txn_count", "Number of transactions waiting to be applied.", "gauge")
        lags = Metric(
            "litefs_db_lag_seconds",
            "The node's lag while transactions of this database wait to be applied, in seconds.",
            "gauge",
        )
        lag_ms = self._node.status().lag_ms or 0
        commits = Metric("litefs_db_commit_count", "Number of database commits.", "counter")
        for name, database in databases:
            labels = {"db": name}
            txids.add_sample("litefs_db_txid", labels, database.txid)
            pages.add_sample("litefs_db_pages", labels, database.page_n)
            pending.add_sample("litefs_db_pending_txn_count", labels, max(database.logged_txid - database.txid, 0))
            is_behind = database.logged_txid > database.txid
            lag_s = lag_ms / 1000 if is_behind else 0.0
            lags.add_sample("litefs_db_lag_seconds", labels, lag_s)
            commits.add_sample("litefs_db_commit_count", labels, self._feed.commit_n[name])
        yield from (txids, pages, pending, lags, commits)
        yield from self._of_logs()

    def _of_logs(self) -> Iterator[Metric]:
        counts = Metric("litefs_db_ltx_count", "Number of LTX files on disk.", "gauge")
        sizes = Metric("litefs_db_ltx_bytes", "Number of bytes used by LTX files on disk.", "gauge")
        for name, database in sorted(self._feed.positions.items()):
            first_txid, size = _log_extent(self._node.data_dir / "dbs" / name / "log")
            image_n = max(database.logged_txid - first_txid + 1, 0) if first_txid else 0
            counts.add_sample("litefs_db_ltx_count", {"db": name}, image_n)
            sizes.add_sample("litefs_db_ltx_bytes", {"db": name}, size)
        yield from (counts, sizes)

    def _of_followers(self) -> Iterator[Metric]:
        followers = self._followers
        yield _value("litefs_http_stream_count", "Number of streams currently connected.", len(followers.connected))
        silent = Metric("litefs_follower_silent_count", "Streams dropped for want of a sign of life.", "counter")
        silent.add_sample("litefs_follower_silent_count", {}, followers.silent_n)
        yield silent
        frames = Metric("litefs_http_frame_send_count", "Number of frames sent.", "counter")
        for (name, kind), count in sorted(followers.frame_counts.items()):
            frames.add_sample("litefs_http_frame_send_count", {"db": name, "type": kind}, count)
        sent = Metric("litefs_follower_sent_bytes", "Bytes of the stream sent to a follower.", "gauge")
        behind = Metric("litefs_follower_behind_txn_count", "Transactions not yet sent to a follower.", "gauge")
        for follower in followers.connected:
            labels = {"node": follower.node_id, "address": follower.address}
            sent.add_sample("litefs_follower_sent_bytes", labels, follower.sent_bytes)
            behind.add_sample("litefs_follower_behind_txn_count", labels, follower.behind_n(self._feed.positions))
        yield from (frames, sent, behind)


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


def _value(name: str, documentation: str, value: float) -> Metric:
    metric = Metric(name, documentation, "gauge")
    metric.add_sample(name, {}, float(value))
    return metric
