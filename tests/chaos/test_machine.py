import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.machine import Disk, WallClock

HOUR_S = 3600


def test_a_wall_clock_is_set_for_a_process_that_runs_and_its_monotonic_clock_is_not(tmp_path: Path) -> None:
    clock = WallClock(tmp_path)
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clock.environment,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for hours in (0, 5, -5):
            clock.set_ahead(hours * HOUR_S)
            child.stdin.write("\n")
            child.stdin.flush()
            wall, monotonic = map(float, child.stdout.readline().split())
            assert round((wall - time.time()) / HOUR_S) == hours
            assert abs(monotonic - time.monotonic()) < HOUR_S


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_disk_is_full_until_it_is_emptied(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    disk = Disk(directory)
    try:
        disk.fill(0)
        with pytest.raises(OSError, match="No space left"):
            (directory / "file").write_bytes(bytes(1 << 20))
        disk.empty()
        (directory / "file").write_bytes(bytes(1 << 20))
    finally:
        disk.detach()
