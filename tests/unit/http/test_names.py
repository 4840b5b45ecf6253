"""Names in requests; which ones are good is tested with `formats.database_name`."""

import pytest

from litefs.errors import FormatError
from litefs.http.names import check_database_name


def test_returns_a_good_name() -> None:
    assert check_database_name("a.db") == "a.db"


@pytest.mark.parametrize("name", ["../x", "a-wal", ".primary", "\udcff"])
def test_refuses_what_is_no_name_of_a_database(name: str) -> None:
    with pytest.raises(FormatError):
        check_database_name(name)


def test_says_that_a_name_is_required_as_go_does() -> None:
    with pytest.raises(FormatError, match=r"^name required$"):
        check_database_name("")
