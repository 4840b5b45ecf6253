"""Workloads of two nodes: when a commit is seen on the replica, and how fast a new replica gets a database."""

import time
from functools import partial

from bench.client import Client, run_client
from bench.processes import peaks_mib, reset_peaks
from bench.targets import Target
from bench.workload import Round, Workload
from tests.support.litefs_node import LitefsNode
from tests.support.verdict import await_position

CATCH_UP_TIMEOUT_S = 300.0
COMMIT_INTERVAL_S = 0.004
READER_PAUSE_S = 0.0001
"""A reader without a pause would take one of two cores from the nodes it waits for."""

SNAPSHOT_MB = 1073.7
"""One GiB."""


def await_same_position(target: Target, name: str, *, replica: LitefsNode | None = None) -> None:
    """Waits until a replica shows the primary's position of a database."""
    follower = replica or target.replica
    if target.primary is None or follower is None:
        return
    position = target.primary.read(f"{name}-pos").strip()
    await_position(follower, follower.mount_dir / name, position, timeout_s=CATCH_UP_TIMEOUT_S)


def visibility(mode: str, target: Target, round_: Round) -> dict[str, float]:
    """From when a commit returns on the primary until a reader of the replica sees it."""
    name = f"visible-{round_.number}.db"
    count = max(50, int(round_.seconds / COMMIT_INTERVAL_S))
    writer = Client(target, "visibility_writer", target.directory / name, mode, count, COMMIT_INTERVAL_S)
    try:
        await_same_position(target, name)
        reader = Client(target, "visibility_reader", target.replica_directory / name, count, READER_PAUSE_S)
        try:
            writer.go()
            committed = writer.result()
            seen = reader.result()
        finally:
            reader.end()
    finally:
        writer.end()
    latencies = sorted((seen[number] - committed[number]) / 1e6 for number in committed)
    return {"p50 ms": _quantile(latencies, 0.5), "p99 ms": _quantile(latencies, 0.99)}


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _snapshot(target: Target, round_: Round) -> dict[str, float]:
    """A new replica of a 1 GiB database: from its mount being there until its position is the primary's."""
    assert target.primary is not None
    name = "snapshot.db"
    if round_.number == 0:
        target_bytes = run_client(target, "large_database", target.directory / name, SNAPSHOT_MB)["bytes"]
        assert target_bytes >= SNAPSHOT_MB * 1e6
    reset_peaks(target.primary)
    replica = LitefsNode(
        target.root / f"replica-{round_.number}", command=target.command, primary_port=target.primary.port
    )
    try:
        replica.start()
        started = time.monotonic()
        await_same_position(target, name, replica=replica)
        elapsed = time.monotonic() - started
        peaks = [*peaks_mib(target.primary), *peaks_mib(replica)]
    finally:
        replica.stop()
    return {"MB/s": SNAPSHOT_MB / elapsed, "largest process MiB": max(peaks)}


WORKLOADS = [
    Workload(name="visible on replica DELETE", measure=partial(visibility, "DELETE"), replica=True, bare=False),
    Workload(name="visible on replica WAL", measure=partial(visibility, "WAL"), replica=True, bare=False),
    Workload(name="snapshot of 1 GiB to a new replica", measure=_snapshot, bare=False, rounds_max=3),
]
