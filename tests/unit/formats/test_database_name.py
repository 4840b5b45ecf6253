"""Which text may become a database's name."""

import pytest

from litefs.errors import FormatError
from litefs.filesystem.inodes import Kind
from litefs.filesystem.names import classify
from litefs.formats.database_name import NAME_BYTES_MAX, REPLACEMENT_PREFIX, check_database_name

SIDE_FILES = [
    ".primary",
    ".lag",
    "a-journal",
    "a-wal",
    "a-shm",
    "a-pos",
    "a-lock",
    "a.db-mjA1B2C39D4",
    "line\nend-wal",
    REPLACEMENT_PREFIX,
    REPLACEMENT_PREFIX + "a.db",
]
REFUSED = ["", ".", "..", "../x", "a/../b", "/a", "a/", "a\0b", "\udcff", "x" * (NAME_BYTES_MAX + 1), "é" * 124]
ACCEPTED = [
    "a",
    "a.db",
    ".hidden.db",
    "with space.db",
    "Ünïcode.db",
    "x" * NAME_BYTES_MAX,
    "wal",
    "-wal",
    "a-mj.db",
    "a.db-mja1b2c39d4",
    "a-wal\n",
    "..a",
    "tab\t",
    ".primary2",
]


@pytest.mark.parametrize("name", REFUSED + SIDE_FILES)
def test_refuses(name: str) -> None:
    with pytest.raises(FormatError):
        check_database_name(name)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name: str) -> None:
    check_database_name(name)


@pytest.mark.parametrize("name", ACCEPTED + SIDE_FILES)
def test_the_mount_and_the_wire_agree_on_what_is_a_database(name: str) -> None:
    """What an application can create here must be good enough for the replicas, and the other way round."""
    assert (classify(name) == (Kind.DATABASE, name)) == (name in ACCEPTED)
