"""Mode and owner of what applications make, and of what replication makes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from litefs.filesystem.inodes import Kind
from litefs.formats.database_name import REPLACEMENT_PREFIX
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.replacement import prepare_replacement
from litefs.storage.state import DatabaseState
from tests.support.fuseless_mount import NODE, ROOT, FuselessMount, context, pages
from tests.support.sqlite_player import PAGE_SIZE

SIDE_FILES = ["a.db-journal", "a.db-wal", "a.db-shm"]


def attributes(mount: FuselessMount, name: str) -> tuple[int, int, int]:
    inode = mount.inodes.by_name[name]
    return stat.S_IMODE(inode.mode), inode.uid, inode.gid


def attributes_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@pytest.mark.parametrize("name", ["a.db", *SIDE_FILES])
def test_what_an_application_makes_is_its_own(mount: FuselessMount, name: str) -> None:
    mount.create(name, mode=0o640, ctx=context(uid=1234))
    assert attributes(mount, name) == (0o640, 1234, 1234)


@pytest.mark.parametrize("name", SIDE_FILES)
def test_what_replication_makes_beside_a_database_is_the_databases(mount: FuselessMount, name: str) -> None:
    mount.create("a.db", mode=0o640, ctx=context(uid=1234))
    mount.become_replica()
    mount.create(name, mode=0o600, ctx=NODE)
    assert attributes(mount, name) == (0o640, 1234, 1234)


def test_a_database_that_replication_makes_is_the_directorys_and_keeps_that(mount: FuselessMount) -> None:
    mount.become_replica()
    root = mount.inodes.root
    root.mode, root.uid, root.gid = stat.S_IFDIR | 0o2770, 1234, 5678
    mount.create("a.db", mode=0o600, ctx=NODE)
    assert attributes(mount, "a.db") == (0o660, 1234, 5678)
    assert attributes_of(mount.database("a.db").base.path) == (0o660, 1234, 5678)


def test_a_replaced_database_keeps_mode_and_owner_over_a_restart(mount: FuselessMount) -> None:
    mount.commit("a.db", mount.create("a.db", mode=0o640, ctx=context(uid=1234)), 1)
    directory = mount.store.directory("a.db")
    incoming = IncomingDatabase(directory, PAGE_SIZE, 2)
    incoming.write_pages(1, b"".join(pages(2)))
    state = DatabaseState(
        base_txid=2, checksum=incoming.finish(), page_size=PAGE_SIZE, page_n=2, timestamp_ms=1, incoming=incoming.name
    )
    prepare_replacement(mount.disk, directory, state)
    # As much as a start finds if the node dies now.
    assert attributes_of(directory / incoming.name) == (0o640, 1234, 1234)
    waiting = REPLACEMENT_PREFIX + "a.db"
    mount.inodes.add(Kind.REPLACEMENT, waiting, 0o604, 4321, 4321)
    mount.do(mount.operations.rename(ROOT, waiting.encode(), ROOT, b"a.db", 0, NODE))
    assert attributes(mount, "a.db") == attributes_of(directory / "database") == (0o604, 4321, 4321)


WITHOUT_PRIVILEGES = """
import os, stat, sys
from pathlib import Path
from tests.support.fuseless_mount import FuselessMount, context

mount = FuselessMount(Path(sys.argv[1]))
mount.commit("a.db", mount.create("a.db", ctx=context(uid=1234)), 1)
mount.do(mount.set("a.db", update_mode=True, st_mode=stat.S_IFREG | 0o400))
assert mount.lookup("a.db").st_uid == 1234
mount.close()
mount = FuselessMount(Path(sys.argv[1]))
entry = mount.lookup("a.db")
print(oct(entry.st_mode), entry.st_uid == os.getuid(), mount.position())
mount.commit("a.db", mount.open("a.db"), 2)
mount.close()
"""


def test_a_node_that_is_not_root_starts_with_a_database_that_was_made_read_only(tmp_path: Path) -> None:
    """Whom it belongs to cannot be kept then."""
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-chown", sys.executable, "-c"]
    done = subprocess.run(
        [*command, WITHOUT_PRIVILEGES, str(tmp_path)],
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "0o100400 True 1\n", done.stderr


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
