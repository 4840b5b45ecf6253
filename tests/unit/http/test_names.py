"""Which text may become a database's name."""

import pytest

from litefs.errors import FormatError
from litefs.http.names import NAME_BYTES_MAX, check_database_name

REFUSED = [
    "",
    ".",
    "..",
    "../x",
    "a/../b",
    "/a",
    "a/",
    "a\0b",
    "\udcff",
    ".primary",
    ".lag",
    "x" * (NAME_BYTES_MAX + 1),
    "é" * 124,
    "a-journal",
    "a-wal",
    "a-shm",
    "a-pos",
    "a-lock",
    "a.db-mjA1B2C39D4",
]
ACCEPTED = [
    "a",
    "a.db",
    ".hidden.db",
    "with space.db",
    "Ünïcode.db",
    "x" * NAME_BYTES_MAX,
    "wal",
    "a-mj.db",
    "..a",
    "tab\t",
]


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    with pytest.raises(FormatError):
        check_database_name(name)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepts(name: str) -> None:
    assert check_database_name(name) == name


def test_says_that_a_name_is_required_as_go_does() -> None:
    with pytest.raises(FormatError, match=r"^name required$"):
        check_database_name("")
