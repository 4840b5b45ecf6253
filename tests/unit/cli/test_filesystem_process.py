"""The filesystem process as the supervisor sees it when it cannot start; nothing is mounted here."""

from pathlib import Path

import pytest

from tests.support.filesystem_node import FilesystemNode, NodeFailedError


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("data", "data/version.tmp: Is a directory"), ("mnt", "mnt: cannot be mounted")],
)
def test_says_in_one_line_why_it_cannot_start(tmp_path: Path, missing: str, reason: str) -> None:
    node = FilesystemNode(tmp_path)
    if missing == "mnt":
        node.mount_dir.rmdir()
    else:
        (node.data_dir / "version.tmp").mkdir()  # as little to be written as on a read-only disk, even for root
    try:
        with pytest.raises(NodeFailedError):
            node.start()
    finally:
        node.stop()
    assert node.exit_code == 1
    assert reason in node.log_text()
    assert "Traceback" not in node.log_text()
