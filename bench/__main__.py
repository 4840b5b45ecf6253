"""`python -m bench`: measures every workload in alternating rounds and prints the table.

python -m bench                             all workloads, medians of 5 rounds
python -m bench --only "inserts WAL"        those whose name contains the text
python -m bench --awake                     the same on processors that do not sleep when they are idle
AGAINST=PATH python -m bench                a third column: another `litefs` binary, measured the same way
"""

import argparse
import os
import struct
import sys
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from bench import concurrency, followers, rates, replication, report, sizes
from bench.targets import commands, running
from bench.workload import Round, Workload
from litefs.filesystem.wakefulness import DEVICE

ALL = [
    *rates.WORKLOADS,
    *replication.WORKLOADS,
    *sizes.WORKLOADS,
    *concurrency.WORKLOADS,
    *followers.WORKLOADS,
]


def measure(
    workload: Workload, columns: dict[str, list[str]], rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Measures one workload on every column, round by round in turns.

    Returns:
        Metric → column → one value per round.
    """
    samples: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        targets = [
            stack.enter_context(running(name, command, replica=workload.replica, environment=workload.environment))
            for name, command in columns.items()
            if (command or workload.bare) and (name != "other" or not workload.environment)
        ]
        for number, target in product(range(min(rounds, workload.rounds_max)), targets):
            for metric, value in workload.measure(target, Round(number=number, seconds=seconds)).items():
                samples.setdefault(metric, {}).setdefault(target.name, []).append(value)
    return samples


def main() -> int:
    """Runs the workloads that were asked for; the exit code is 1 when one of them could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="measure workloads whose name contains this text")
    parser.add_argument("--columns", default="", help="comma-separated: bare,litefs,other")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a rate is measured in each round")
    parser.add_argument("--awake", action="store_true", help="keep idle processors polling for all columns (root)")
    parser.add_argument("--json", type=Path, help="write all rounds to this file")
    arguments = parser.parse_args()
    if arguments.awake:
        # Held until the process ends: what `fuse.low-latency` does, for plain ext4 and everybody else too.
        os.write(os.open(DEVICE, os.O_WRONLY), struct.pack("=i", 0))
    columns = commands()
    if arguments.columns:
        columns = {name: command for name, command in columns.items() if name in arguments.columns.split(",")}
    samples: report.Samples = {}
    failed = []
    for workload in ALL:
        if arguments.only.lower() not in workload.name.lower():
            continue
        print(f"measuring {workload.name} ...", file=sys.stderr, flush=True)
        try:
            samples[workload.name] = measure(workload, columns, arguments.rounds, arguments.seconds)
        except Exception as error:  # noqa: BLE001 - one workload that fails must not cost the figures of the others
            failed.append(workload.name)
            print(f"  failed: {error}", file=sys.stderr, flush=True)
            continue
        print(report.table({workload.name: samples[workload.name]}), file=sys.stderr, flush=True)
    print(report.table(samples))
    if arguments.json:
        facts = {"rounds": arguments.rounds, "seconds": arguments.seconds, "awake": arguments.awake}
        arguments.json.write_text(report.document(samples, facts))
    for name in failed:
        print(f"not measured: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
