"""One experiment: `python -m tests.chaos.run --root DIRECTORY [--seconds N] [--seed N]`, as root.

Draws faults until the time is over, lets the cluster repair itself after each, and judges what the clients saw. The
same seed draws the same faults; when they strike depends on the machine. Prints a report; the exit code is 1 when
something happened that cannot be.
"""

import argparse
import ctypes
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.chaos.cluster import CONSUL, NODES, ChaosCluster
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.history import History
from tests.chaos.network import Network

PROGRESS_ROWS = 10
REPAIR_TIMEOUT_S = 60.0


def main() -> int:
    """Runs the experiment inside the network that it makes."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="an empty directory for nodes and logs")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long faults are drawn (default: 180)")
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    parser.add_argument("--journal-mode", choices=["WAL", "DELETE"], default=None, help="default: drawn")
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="faults to draw from (default: all)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us early leaves no node behind either
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    draw = random.Random(seed)
    mode = draw.choice(["WAL", "DELETE"])
    mode = arguments.journal_mode or mode
    print(f"seed {seed}, journal mode {mode}, {arguments.seconds:.0f} s", flush=True)
    with Network([*NODES, CONSUL]) as network:
        _join(network)
        cluster = ChaosCluster(arguments.root.resolve(), network, journal_mode=mode)
        try:
            faults = [fault for fault in FAULTS if fault.name in arguments.only]
            return _experiment(cluster, draw, faults, arguments.seconds)
        finally:
            cluster.kill()


def _join(network: Network) -> None:
    """Moves this process into the namespace of the bridge."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/run/netns/{network.bridge}", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, 0):
        raise OSError(ctypes.get_errno(), f"setns {network.bridge}")
    os.close(fd)


def _experiment(cluster: ChaosCluster, draw: random.Random, faults: list[Fault], seconds: float) -> int:
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {words}", flush=True)

    fault_n = 0
    weights = [fault.weight for fault in faults]
    while time.monotonic() - begun < seconds:
        (fault,) = draw.choices(faults, weights)
        say(fault.run(cluster, draw))
        fault_n += 1
        before, struck = cluster.acknowledged_n(), time.monotonic()
        cluster.await_true(
            lambda before=before: cluster.acknowledged_n() >= before + PROGRESS_ROWS,
            "writes go on",
            timeout_s=REPAIR_TIMEOUT_S,
        )
        say(f"writes go on after {time.monotonic() - struck:.1f} s, {cluster.acknowledged_n()} rows")
        time.sleep(draw.uniform(0.2, 2.0))
    cluster.settle()
    final = {name: node.rows() for name, node in cluster.nodes.items()}
    cluster.keep_history(final)
    verdict = History(cluster.writes(), cluster.reads(), cluster.tenures(), final).check()
    say(
        f"{fault_n} faults, {verdict.acknowledged_n} rows acknowledged, {len(verdict.lost)} of them lost with their "
        f"primary, {verdict.read_n} reads, {len(cluster.tenures())} changes of the lease, "
        f"{cluster.bus_error_n} clients killed by SIGBUS"
    )
    for violation in verdict.violations[:20]:
        say(f"VIOLATION: {violation}")
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
