"""Workloads of large things: one transaction of 103 MB, a start with 1 GiB, a node at rest."""

import time
from functools import partial

from bench.client import run_client
from bench.processes import cpu_s, peaks_mib, pss_mib, reset_peaks, rss_mib
from bench.targets import Target
from bench.workload import Round, Workload

TRANSACTION_MB = 103.0
START_MB = 1073.7
START_TIMEOUT_S = 120.0
IDLE_SETTLE_S = 2.0


def _large_transaction(mode: str, target: Target, round_: Round) -> dict[str, float]:
    path = target.directory / f"large-{round_.number}.db"
    node = target.primary
    if node is None:
        return {"s": run_client(target, "large_transaction", path, mode, TRANSACTION_MB)["s"]}
    before = rss_mib(node)
    reset_peaks(node)
    result = run_client(target, "large_transaction", path, mode, TRANSACTION_MB)
    return {"s": result["s"], "RSS growth MiB": sum(peaks_mib(node)) - before}


def _start(target: Target, round_: Round) -> dict[str, float]:
    """From the start of the node until an application has read, and until it has written."""
    assert target.primary is not None
    path = target.directory / "start.db"
    if round_.number == 0:
        run_client(target, "large_database", path, START_MB)
    target.primary.stop()
    started = time.monotonic()
    target.primary.start()
    moments = run_client(target, "first_statements", path, START_TIMEOUT_S)
    return {"s to first read": moments["read"] - started, "s to first write": moments["write"] - started}


def _idle(target: Target, round_: Round) -> dict[str, float]:
    """Memory and processor share of a primary with one database, one replica connected and nobody writing."""
    assert target.primary is not None
    assert target.replica is not None
    if round_.number == 0:
        run_client(target, "inserts", target.directory / "idle.db", "WAL", "NORMAL", 0, 1000)
        time.sleep(IDLE_SETTLE_S)
    used, started = cpu_s(target.primary), time.monotonic()
    replica_used = cpu_s(target.replica)
    time.sleep(max(2.0, round_.seconds))
    elapsed = time.monotonic() - started
    return {
        "PSS primary MiB": pss_mib(target.primary),
        "PSS replica MiB": pss_mib(target.replica),
        "CPU primary %": 100 * (cpu_s(target.primary) - used) / elapsed,
        "CPU replica %": 100 * (cpu_s(target.replica) - replica_used) / elapsed,
    }


WORKLOADS = [
    Workload(name="one transaction of 103 MB DELETE", measure=partial(_large_transaction, "DELETE")),
    Workload(name="one transaction of 103 MB WAL", measure=partial(_large_transaction, "WAL")),
    Workload(name="start with 1 GiB", measure=_start, bare=False, rounds_max=3),
    Workload(name="node at rest", measure=_idle, replica=True, bare=False, rounds_max=3),
]
