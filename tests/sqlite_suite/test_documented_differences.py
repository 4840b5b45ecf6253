"""What the mount is meant to do otherwise than ext4 stands in the guide, too."""

from pathlib import Path

from tests.sqlite_suite.files import DIFFERENCES, EXCLUDED_FILES

GUIDE = Path(__file__).resolve().parents[2] / "docs/sqlite-suite.md"


def test_the_guide_names_every_difference_and_no_other() -> None:
    table = [line for line in GUIDE.read_text().splitlines() if line.startswith("| ")][2:]
    documented = {name.strip("` ") for line in table for name in line.split("|")[2].split(",")}
    assert documented == {pattern for patterns in DIFFERENCES.values() for pattern in patterns.split()}


def test_the_guide_names_every_file_that_is_left_out() -> None:
    text = GUIDE.read_text()
    assert [name for name in EXCLUDED_FILES if f"`{name}`" not in text] == []
