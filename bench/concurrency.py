"""Workloads of several databases: does one commit's wait for the disk stop the others?

Every sync of the node's log takes 5 ms longer, by a fault put on the node's own door to the disk; so this is about
LiteFS alone and has no column for plain ext4 or for another program.
"""

from functools import partial

from bench.client import run_client
from bench.targets import Target
from bench.workload import Round, Workload

SYNC_DELAY_S = 0.005
DATABASES = 8
_SLOW_SYNCS = {"LITEFS_FAULTS": f"delay:*sync*:{SYNC_DELAY_S}"}


def _writers(mode: str, target: Target, round_: Round) -> dict[str, float]:
    """Eight databases at once against one alone, in the same round."""
    written = [target.directory / f"written-{mode}-{round_.number}-{index}.db" for index in range(DATABASES)]
    read = [target.directory / f"read-{index}.db" for index in range(2)]
    alone = run_client(target, "writers", mode, "FULL", round_.seconds, written[0], "--", *read)
    together = run_client(target, "writers", mode, "FULL", round_.seconds, *written, "--", *read)
    return {
        "tx/s of 1": alone["tx/s"],
        "tx/s of 8": together["tx/s"],
        "8 : 1": together["tx/s"] / alone["tx/s"],
        "read p99 ms": together["read p99 ms"],
        "open and read p99 ms": together["open p99 ms"],
    }


WORKLOADS = [
    Workload(
        name=f"8 databases, slow disk, {mode}",
        measure=partial(_writers, mode),
        bare=False,
        environment=_SLOW_SYNCS,
    )
    for mode in ("DELETE", "PERSIST", "TRUNCATE", "WAL")
]
