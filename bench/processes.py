"""Memory and processor time of the processes of a node, as the kernel counts them."""

import os
from pathlib import Path

from tests.support.litefs_node import LitefsNode

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pss_mib(node: LitefsNode) -> float:
    """Returns the proportional set size of all processes of a node: shared pages are counted once."""
    return sum(_rollup_kib(pid, "Pss") for pid in node.pids()) / 1024


def rss_mib(node: LitefsNode) -> float:
    """Returns the resident memory of all processes of a node; shared pages count in each process."""
    return sum(_status_kib(pid, "VmRSS") for pid in node.pids()) / 1024


def reset_peaks(node: LitefsNode) -> None:
    """Makes the peak of each process start from its memory of now."""
    for pid in node.pids():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peaks_mib(node: LitefsNode) -> list[float]:
    """Returns each process's peak of resident memory since `reset_peaks`."""
    return [_status_kib(pid, "VmHWM") / 1024 for pid in node.pids()]


def cpu_s(node: LitefsNode) -> float:
    """Returns the processor seconds that the processes of a node have used."""
    total = 0.0
    for pid in node.pids():
        # The command's name may hold blanks and brackets: count from the last closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return total


def _status_kib(pid: int, field: str) -> float:
    return _field(Path(f"/proc/{pid}/status"), field)


def _rollup_kib(pid: int, field: str) -> float:
    return _field(Path(f"/proc/{pid}/smaps_rollup"), field)


def _field(path: Path, field: str) -> float:
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return float(rest.split()[0])
    return 0.0
