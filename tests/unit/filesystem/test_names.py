import pytest

from litefs.filesystem.inodes import Kind
from litefs.filesystem.names import classify
from litefs.formats.database_name import REPLACEMENT_PREFIX


@pytest.mark.parametrize(
    ("name", "kind", "owner"),
    [
        ("app.db", Kind.DATABASE, "app.db"),
        ("app.db-journal", Kind.JOURNAL, "app.db"),
        ("app.db-wal", Kind.WAL, "app.db"),
        ("app.db-shm", Kind.SHM, "app.db"),
        ("app.db-pos", Kind.POS, "app.db"),
        ("app.db-lock", Kind.LOCK, "app.db"),
        ("app.db-mj0123456A9", Kind.SUPER_JOURNAL, "app.db"),
        ("etilqs_3f2a9c", Kind.TEMPORARY, ""),
        (".primary", Kind.PRIMARY, ""),
        (".lag", Kind.LAG, ""),
        (REPLACEMENT_PREFIX + "app.db", Kind.REPLACEMENT, "app.db"),
    ],
)
def test_a_name_tells_its_kind_and_database(name: str, kind: Kind, owner: str) -> None:
    assert classify(name) == (kind, owner)


@pytest.mark.parametrize(
    "name",
    [
        "-journal",  # nothing before the suffix
        "-wal",
        "-mj0123456A9",
        "app-journals",
        "app-Journal",
        "app.db-mj0123456a9",  # SQLite writes upper case
        "app.db-mj012345",  # and nine digits
        "app.db-mj0123456A9F",
        "app.db-mjG123456A9",
        ".lag2",
        "x.primary",
        "wal",
    ],
)
def test_anything_else_is_a_database(name: str) -> None:
    assert classify(name) == (Kind.DATABASE, name)


def test_only_the_last_suffix_counts() -> None:
    """A database may itself be called like a side file."""
    assert classify("app-journal-wal") == (Kind.WAL, "app-journal")
    assert classify("a-b-c-shm") == (Kind.SHM, "a-b-c")
