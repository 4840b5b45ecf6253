"""Workloads that count operations per second: point reads, single-row transactions."""

from functools import partial

from bench.client import Client, run_client
from bench.replication import await_same_position
from bench.targets import Target
from bench.workload import Round, Workload

COMMIT_INTERVAL_S = 0.01

READ_TABLE_ROWS = 10_000
"""One megabyte of rows: they fit SQLite's page cache, so a read measures the file system and not a copy."""


def _reads(mode: str, on_replica: bool, target: Target, round_: Round) -> dict[str, float]:
    name = f"reads-{mode}.db"
    if round_.number == 0:
        run_client(target, "inserts", target.directory / name, mode, "NORMAL", 0, READ_TABLE_ROWS)
        if on_replica:
            await_same_position(target, name)
    directory = target.replica_directory if on_replica else target.directory
    return run_client(target, "point_reads", directory / name, round_.seconds)


def _reads_beside(mode: str, on_replica: bool, target: Target, round_: Round) -> dict[str, float]:
    """Point reads while another process of the primary commits: every commit makes SQLite drop its own cache."""
    name = f"beside-{mode}.db"
    if round_.number == 0:
        run_client(target, "inserts", target.directory / name, mode, "NORMAL", 0, READ_TABLE_ROWS)
        if on_replica:
            await_same_position(target, name)
    writer = Client(target, "paced_inserts", target.directory / name, COMMIT_INTERVAL_S)
    try:
        writer.go()
        directory = target.replica_directory if on_replica else target.directory
        return run_client(target, "point_reads", directory / name, round_.seconds)
    finally:
        writer.end()


def _inserts(mode: str, synchronous: str, target: Target, round_: Round) -> dict[str, float]:
    path = target.directory / f"inserts-{round_.number}.db"
    return {"tx/s": run_client(target, "inserts", path, mode, synchronous, round_.seconds)["tx/s"]}


WORKLOADS = [
    Workload(name="reads rollback primary", measure=partial(_reads, "DELETE", False)),
    Workload(name="reads WAL primary", measure=partial(_reads, "WAL", False)),
    Workload(name="reads rollback replica", measure=partial(_reads, "DELETE", True), replica=True),
    Workload(name="reads WAL replica", measure=partial(_reads, "WAL", True), replica=True),
    Workload(name="reads beside writes rollback primary", measure=partial(_reads_beside, "DELETE", False)),
    Workload(name="reads beside writes WAL primary", measure=partial(_reads_beside, "WAL", False)),
    Workload(name="reads beside writes rollback replica", measure=partial(_reads_beside, "DELETE", True), replica=True),
    Workload(name="reads beside writes WAL replica", measure=partial(_reads_beside, "WAL", True), replica=True),
    Workload(name="inserts DELETE FULL", measure=partial(_inserts, "DELETE", "FULL")),
    Workload(name="inserts DELETE OFF", measure=partial(_inserts, "DELETE", "OFF")),
    Workload(name="inserts WAL FULL", measure=partial(_inserts, "WAL", "FULL")),
    Workload(name="inserts WAL NORMAL", measure=partial(_inserts, "WAL", "NORMAL")),
]
