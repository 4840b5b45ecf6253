"""Nothing that decides reads the wall clock: somebody may set it at any moment.

The modules named here show times to people, or write them where a format has a field for them. Leases, roles,
time-outs and retention go by the monotonic clock.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sidecar" / "litefs"

WALL_CLOCKS = frozenset({"time.time", "time.time_ns", "time.localtime", "datetime.now", "datetime.utcnow"})

READERS = {
    "cli/status_command.py": "the head of a table",
    "cli/supervisor.py": "time stamps of lines",
    "filesystem/inodes.py": "times of files",
    "filesystem/operations.py": "times of files",
    "filesystem/special_files.py": ".lag",
    "http/replication.py": "heartbeats",
    "http/stream_outlet.py": "heartbeats during a snapshot",
    "node/node.py": "the lag, for metrics and /status",
    "node/stream_intake.py": "the lag during a snapshot",
    "storage/database.py": "time stamps of images",
    "storage/transaction.py": "time stamps of images",
}


def wall_clocks(source: str) -> set[str]:
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return names & WALL_CLOCKS


def test_only_what_shows_or_writes_times_reads_the_wall_clock() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if wall_clocks(path.read_text(encoding="utf-8"))
    }
    assert found == set(READERS)


def test_a_wall_clock_is_found_however_it_is_handed_on() -> None:
    assert wall_clocks("import time\nrun(clock=time.time)\n") == {"time.time"}
    assert wall_clocks("import time\nrun(clock=time.monotonic)\n") == set()
