"""Says whether a database on a mount is sound: SQLite's own check, and the checksum of its position.

What every test of the mount ends with:
    1. `integrity_check` says ok, in a process that has not seen the database before;
    2. the checksum recomputed from the pages SQLite shows is the one in `<database>-pos`;
    3. so is the checksum of the file's bytes once the WAL is checkpointed, and the checkpoint was no transaction;
    4. the rows are those of the same scenario on ext4;
    5. where there is a replica, it reaches the same position and shows the same bytes.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support import children
from tests.support.filesystem_node import REPOSITORY
from tests.support.scenario import Place

REPLICA_TIMEOUT_S = 20.0
_PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the probe saw; fields as `tests/support/probe.py` prints them. `content` is empty for large databases."""

    integrity: list[str]
    position: str | None
    checksum: str
    page_size: int
    page_n: int
    sha256: str
    content: str
    journal_mode: str

    @property
    def txid(self) -> int:
        """The transaction of the position; 0 where there is none."""
        return int(self.position.partition("/")[0], 16) if self.position else 0


def probe(place: Place, path: Path, *, large: bool = False, replica: bool = False) -> Finding:
    """Looks at a database from a new process and checks that its bytes agree with each other."""
    environment = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "sidecar")])}
    options = ["--large"] * large + ["--replica"] * replica
    command: list[str | Path] = [sys.executable, "-m", "tests.support.probe", path, *options]
    done = children.run(command, free=place.free, timeout_s=_PROBE_TIMEOUT_S, environment=environment)
    assert done.code == 0, f"the probe of {path.name} failed:\n{done.err}"
    found = json.loads(done.out)
    if "file_checksum" in found:
        assert found["checksum"] == found["file_checksum"], f"{path.name}: file and pages of SQLite differ: {found}"
        assert found["file_page_n"] == found["page_n"], found
    if not replica:
        assert found["position"] == found["position_before"], f"{path.name}: looking at it moved its position: {found}"
    return Finding(
        integrity=found["integrity"],
        position=found["position"],
        checksum=found["checksum"],
        page_size=found["page_size"],
        page_n=found["page_n"],
        sha256=found["sha256"],
        content=found.get("content", ""),
        journal_mode=found["journal_mode"],
    )


def check_database(place: Place, path: Path, *, large: bool = False, replica: bool = False) -> Finding:
    """Fails unless a database on a mount is sound and agrees with its position."""
    finding = probe(place, path, large=large, replica=replica)
    assert finding.integrity == ["ok"], f"{path.name}: {finding.integrity[:5]}"
    assert finding.position is not None, f"{path.name} has no position"
    stated = finding.position.partition("/")[2]
    assert stated == finding.checksum, f"{path.name}: position says {stated}, its pages give {finding.checksum}"
    return finding


def await_position(place: Place, path: Path, position: str, *, timeout_s: float = REPLICA_TIMEOUT_S) -> None:
    """Waits until `<database>-pos` in a place shows a position."""
    script = (
        "import sys, time\n"
        "path, wanted, deadline = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])\n"
        "seen = None\n"
        "while time.monotonic() < deadline:\n"
        "    try:\n"
        "        seen = open(path).read().strip()\n"
        "    except FileNotFoundError:\n"
        "        seen = None\n"
        "    if seen == wanted: sys.exit(0)\n"
        "    time.sleep(0.005)\n"
        "sys.exit(f'position is {seen}, not {wanted}')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", script, f"{path}-pos", position, str(timeout_s)]
    done = children.run(command, free=place.free, timeout_s=timeout_s + children.COMMAND_TIMEOUT_S)
    assert done.code == 0, f"{path}: {done.err.strip()}"


def check_replica(place: Place, path: Path, expected: Finding, *, large: bool = False) -> None:
    """Fails unless a replica reaches the primary's position and shows the same bytes."""
    assert expected.position is not None
    await_position(place, path, expected.position)
    finding = check_database(place, path, large=large, replica=True)
    assert finding.position == expected.position
    assert finding.sha256 == expected.sha256, f"{path.name}: the replica's bytes differ: {finding} {expected}"
