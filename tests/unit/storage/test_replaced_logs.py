"""The logs of states that were replaced: they go, and are in nobody's way while they do."""

from pathlib import Path

from litefs.storage.disk import Disk
from litefs.storage.replacement import OLD_LOG_PREFIX, clean_up, discard_old_logs
from litefs.storage.steps import run


def old_log(directory: Path, number: int) -> Path:
    path = directory / f"{OLD_LOG_PREFIX}{number}"
    path.mkdir()
    (path / "0000000000000001.ltxlog").write_bytes(bytes(100))
    return path


def test_old_logs_are_removed_off_the_loop(tmp_path: Path) -> None:
    for number in range(2):
        old_log(tmp_path, number)
    removals = list(discard_old_logs(Disk(), tmp_path))
    assert len(list(tmp_path.iterdir())) == len(removals) == 2
    run(discard_old_logs(Disk(), tmp_path))
    assert list(tmp_path.iterdir()) == []
    run(discard_old_logs(Disk(), tmp_path))


def test_a_start_removes_what_a_crash_left(tmp_path: Path) -> None:
    old_log(tmp_path, 1)
    (tmp_path / "incoming-1").touch()
    (tmp_path / "incoming-1.sums").touch()
    clean_up(Disk(), tmp_path)
    assert list(tmp_path.iterdir()) == []
