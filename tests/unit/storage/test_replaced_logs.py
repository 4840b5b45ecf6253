"""The log of a state that was replaced: it goes, and is in nobody's way while it does."""

from pathlib import Path

from litefs.storage.disk import Disk
from litefs.storage.replacement import OLD_LOG_NAME, clean_up, discard_old_log
from litefs.storage.steps import run


def old_log(directory: Path) -> Path:
    path = directory / OLD_LOG_NAME
    path.mkdir()
    (path / "0000000000000001.ltxlog").write_bytes(bytes(100))
    return path


def test_the_old_log_is_removed(tmp_path: Path) -> None:
    old_log(tmp_path)
    run(discard_old_log(Disk(), tmp_path))
    assert list(tmp_path.iterdir()) == []
    run(discard_old_log(Disk(), tmp_path))


def test_the_next_replacement_does_not_meet_it(tmp_path: Path) -> None:
    """Its name is free as soon as the removal begins, and a second old log is not touched by the first removal."""
    old_log(tmp_path)
    steps = discard_old_log(Disk(), tmp_path)
    remove = next(steps)
    second = old_log(tmp_path)
    assert remove is not None
    remove()
    assert list(tmp_path.iterdir()) == [second]


def test_a_start_removes_what_a_crash_left(tmp_path: Path) -> None:
    old_log(tmp_path)
    next(discard_old_log(Disk(), tmp_path))
    old_log(tmp_path)
    clean_up(Disk(), tmp_path)
    assert list(tmp_path.iterdir()) == []
