"""What no single subject owns: the invariants of the architecture that only a real kernel can show broken.

Each test here fails when the code that `docs/invariants.md` names for it is disabled.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import children
from tests.support.cluster import Cluster, await_true, succeeds
from tests.support.filesystem_node import REPOSITORY, FilesystemNode, NodeFailedError
from tests.support.fuse_mounts import connection_number
from tests.support.litefs_node import LitefsNode, Pair
from tests.support.scenario import Session
from tests.support.verdict import check_database

CONNECTIONS = Path("/sys/fs/fuse/connections")

# ---- 1: SQLite stays SQLite ----

CACHED_READER = """
import fcntl, os, sys
path = sys.argv[1]
warm = os.open(path, os.O_RDWR)
content = os.pread(warm, 8192, 0)
assert not os.path.exists(path + "-journal")
for line in sys.stdin:
    assert os.pread(warm, 8192, 0) == content
    reopened = os.open(path, os.O_RDWR)  # must not cost the cache
    os.fstat(reopened)
    print("ready", flush=True)
    sys.stdin.readline()
    assert os.pread(reopened, 8192, 0) == content
    assert os.path.exists(path)
    assert not os.path.exists(path + "-journal")
    fcntl.lockf(reopened, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 << 30)
    fcntl.lockf(reopened, fcntl.LOCK_UN, 1, 1 << 30)
    print("done", flush=True)
"""


def test_cached_reads_names_and_locks_ask_the_server_nothing(own_node: FilesystemNode) -> None:
    """They are answered while the filesystem process stands still."""
    session = Session(own_node, "db")
    session.connect().sql("CREATE TABLE t AS SELECT randomblob(4000)")
    session.close()
    with _reader(session, CACHED_READER) as reader:
        # Attributes are believed for a second: on a machine with other load one attempt may take longer.
        assert any(_answers_alone(own_node, reader) for _ in range(3))


LASTING_READER = """
import os, sys
database = os.open(sys.argv[1], os.O_RDWR)
content = os.pread(database, 1 << 20, 0)
for line in sys.stdin:
    os.fstat(database)  # tells the kernel that the file was modified
    print("ready", flush=True)
    sys.stdin.readline()
    assert os.pread(database, 1 << 20, 8192) == content[8192:]
    print("done", flush=True)
"""


def test_a_commit_does_not_empty_the_kernel_s_cache(own_node: FilesystemNode) -> None:
    """The pages that it did not change are read without asking, although the file's time stamp is another."""
    session = Session(own_node, "db")
    writer = session.connect()
    writer.sql("CREATE TABLE t AS SELECT 0 AS n")
    writer.sql("CREATE TABLE u AS SELECT randomblob(200000)")

    def answers_after_a_commit(reader: "subprocess.Popen[str]") -> bool:
        writer.sql("UPDATE t SET n = n + 1")
        return _answers_alone(own_node, reader)

    with _reader(session, LASTING_READER) as reader:
        _answers_alone(own_node, reader)  # it has read everything now
        assert any(answers_after_a_commit(reader) for _ in range(3))


PERSIST_READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
for line in sys.stdin:
    connection.execute("SELECT * FROM t").fetchall()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(10):
        connection.execute("SELECT * FROM t").fetchall()
    print("done", flush=True)
"""


def test_reads_in_persist_mode_ask_the_server_nothing(own_node: FilesystemNode) -> None:
    """Although a journal is there, of which SQLite reads the header at each read transaction if it is not empty."""
    session = Session(own_node, "db")
    writer = session.connect()
    writer.sql("PRAGMA journal_mode = PERSIST")
    writer.sql("CREATE TABLE t AS SELECT 0 AS n")

    def answers_after_a_commit(reader: "subprocess.Popen[str]") -> bool:
        writer.sql("UPDATE t SET n = n + 1")
        assert session.exists("db-journal")
        return _answers_alone(own_node, reader)

    with _reader(session, PERSIST_READER) as reader:
        assert any(answers_after_a_commit(reader) for _ in range(3))


@contextmanager
def _reader(session: Session, program: str) -> Iterator["subprocess.Popen[str]"]:
    """Runs a program on the session's database, which reads when it is told to. Ends the session, too."""
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(session.path())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield reader
    finally:
        children.end(reader, free=session.place.free)
        session.close()


def _answers_alone(node: FilesystemNode, reader: "subprocess.Popen[str]") -> bool:
    """Whether the reader does its calls while the filesystem process is stopped."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write("begin\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "ready\n"
    os.kill(node.pid, signal.SIGSTOP)
    started = time.monotonic()
    watchdog = subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {node.pid}"], start_new_session=True)
    try:
        reader.stdin.write("go\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "done\n"
        return time.monotonic() - started < 2.0
    finally:
        children.end(watchdog, free=lambda: None)  # type: ignore[arg-type]
        os.kill(node.pid, signal.SIGCONT)


# ---- 8: the filesystem process never touches its own mount ----

TOUCH_WATCH = """
import os, sys

if "litefs.cli.filesystem_process" in sys.orig_argv:
    report, mount_dir = os.environ["TOUCH_REPORT"], os.environ["TOUCH_MOUNT"]

    def note(text):
        fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, text.encode() + b"\\n")
        os.close(fd)

    def check(call, *paths):
        for path in paths:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(mount_dir):
                note(f"{call} {os.fsdecode(path)}")
                raise RuntimeError(f"{call} of its own mount")  # before it hangs

    def hook(event, arguments):
        if event == "open" or event.startswith(("os.", "shutil.")):
            check(event, *arguments)

    def watched(call):
        def wrapper(path, *arguments, **options):
            check(call.__name__, path)
            return call(path, *arguments, **options)
        return wrapper

    for name in ("stat", "lstat", "statvfs", "access", "readlink"):  # no audit events
        setattr(os, name, watched(getattr(os, name)))
    import pyfuse3
    for name in ("invalidate_entry", "invalidate_entry_async"):  # wait for the directory's lock
        setattr(pyfuse3, name, lambda *arguments, name=name, **options: note(name))
    note("armed")
    sys.addaudithook(hook)
"""


@pytest.fixture
def watched_pair(tmp_path: Path) -> Iterator[Pair]:
    """A primary and a replica whose filesystem processes report every call on a path of their own mount."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TOUCH_WATCH)
    pair = Pair(tmp_path / "pair")
    for node in (pair.primary, pair.replica):
        node.environment = {
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY / "sidecar")]),
            "TOUCH_REPORT": str(node.root / "touched"),
            "TOUCH_MOUNT": str(node.mount_dir),
        }
    pair.start()
    yield pair
    pair.stop()


def test_the_filesystem_process_never_touches_its_own_mount(watched_pair: Pair) -> None:
    """Neither in commits, applies, drops and replacements, nor when it ends."""
    cluster = Cluster(watched_pair, "db")
    try:
        for mode in ("DELETE", "WAL"):
            connection = cluster.writers.connect(mode)
            connection.sql(f"PRAGMA journal_mode = {mode}")
            connection.sql("CREATE TABLE t (n)")
            cluster.sync(mode)
            connection.sql("INSERT INTO t VALUES (1)")
            cluster.sync(mode)
            cluster.readers.connect(mode).sql("SELECT * FROM t")
            connection.close()
        _import(watched_pair.primary, cluster.writers.path("DELETE"), cluster.writers.path("WAL"))
        cluster.sync("DELETE")
        cluster.writers.run("rm", cluster.writers.path("WAL"))
        await_true(lambda: not cluster.readers.exists("WAL"), "the drop arrives")
    finally:
        cluster.close()
    watched_pair.stop()
    for node in (watched_pair.primary, watched_pair.replica):
        assert (node.root / "touched").read_text() == "armed\n"


def _import(node: LitefsNode, source: Path, target: Path) -> None:
    copy = node.root / "copy.db"
    children.checked(["sqlite3", source, f"VACUUM INTO '{copy}'"], free=node.free)
    command = [sys.executable, "-m", "litefs", "import", "-url", f"http://127.0.0.1:{node.port}", "-name", target.name]
    path = {"PYTHONPATH": str(REPOSITORY / "sidecar")}
    done = children.run([*command, copy], free=node.free, environment=path)
    assert done.code == 0, done.err


# ---- 9: nothing blocks the loop ----

SYNC_DELAY_S = 3.0
WAITING_N = 8


def test_commits_that_wait_for_the_disk_hold_up_nobody_else(tmp_path: Path) -> None:
    """Eight databases wait for their syncs at once; reads, looks at names and other commits do not."""
    node = FilesystemNode(tmp_path / "node")
    session = Session(node, "db")
    node.environment["LITEFS_FAULTS"] = f"delay:log.sync:{SYNC_DELAY_S}"
    node.start()
    try:
        waiting = [session.connect(f"waiting-{number}") for number in range(WAITING_N)]
        other = session.connect("other")
        for connection in (*waiting, other):
            connection.sql("PRAGMA synchronous = OFF")
            connection.sql("CREATE TABLE t (n)")
        for connection in waiting:
            connection.sql("PRAGMA synchronous = FULL")
        started = time.monotonic()
        for connection in waiting:
            connection.process.send("sql", connection.number, "INSERT INTO t VALUES (1)", [])
        await_true(lambda: _waiting_requests(node) >= WAITING_N, "all are waiting")
        other.sql("INSERT INTO t VALUES (2)")
        assert other.sql("SELECT * FROM t") == [[2]]
        assert session.exists("waiting-0")
        assert not session.exists("never-looked-for")
        assert _waiting_requests(node) >= WAITING_N, "the others were served after the wait"
        for connection in waiting:
            connection.process.receive()
        assert SYNC_DELAY_S <= time.monotonic() - started < WAITING_N / 2 * SYNC_DELAY_S
    finally:
        session.close()
        node.stop()


def test_reading_the_next_request_never_blocks(own_node: FilesystemNode) -> None:
    """A request withdrawn between poll and read would freeze the process with the GIL held (PM 2.6)."""
    process = Path(f"/proc/{own_node.pid}")
    (fd,) = (fd.name for fd in (process / "fd").iterdir() if os.readlink(fd) == "/dev/fuse")
    (flags,) = re.findall(r"flags:\t(\d+)", (process / "fdinfo" / fd).read_text())
    assert int(flags, 8) & os.O_NONBLOCK


def _waiting_requests(node: FilesystemNode) -> int:
    """Returns the number of requests that the kernel waits for."""
    number = connection_number(node.mount_dir)
    if not any(CONNECTIONS.iterdir()):
        subprocess.run(["mount", "-t", "fusectl", "none", str(CONNECTIONS)], timeout=10, check=True)
    return int((CONNECTIONS / str(number) / "waiting").read_text())


# ---- 10 and PM 3.1: what was replaced is dead to those who had it open ----


def test_an_idle_wal_connection_notices_that_the_filesystem_process_was_replaced(tmp_path: Path) -> None:
    """All its pages are in its own cache: only the shared memory can tell it."""
    node = LitefsNode(tmp_path / "node")
    node.start()
    session = Session(node, "db")
    try:
        idle = session.connect()
        idle.sql("PRAGMA journal_mode = WAL")
        idle.sql("CREATE TABLE t (n)")
        idle.sql("INSERT INTO t VALUES (1)")
        assert idle.sql("SELECT * FROM t") == [[1]]
        await_true(lambda: f"{session.path()}-shm" in _maps(node), "the node process keeps the shared memory mapped")
        killed = node.child_pid("litefs.cli.filesystem_process")
        os.kill(killed, signal.SIGKILL)
        await_true(lambda: _is_remounted(node, killed), "another mount")
        session.connect().sql("UPDATE t SET n = 2")
        await_true(lambda: not succeeds(lambda: idle.unrecorded("SELECT * FROM t")), "the idle connection fails")
        assert session.connect().sql("SELECT * FROM t") == [[2]]
        check_database(node, session.path())
    finally:
        session.close()
        node.stop()


def test_an_idle_wal_connection_cannot_rebuild_its_index_from_a_dead_mount(tmp_path: Path) -> None:
    """In the first second the kernel still believes what it was told about the dead mount's files."""
    node = LitefsNode(tmp_path / "node")
    node.start()
    session = Session(node, "db")
    try:
        idle = session.connect()
        idle.sql("PRAGMA journal_mode = WAL")
        idle.sql("CREATE TABLE t (n)")
        await_true(lambda: f"{session.path()}-shm" in _maps(node), "the node process keeps the shared memory mapped")
        assert idle.sql("SELECT * FROM t") == []
        killed = node.child_pid("litefs.cli.filesystem_process")
        paths = [f"{session.path()}{suffix}" for suffix in ("", "-wal", "-shm")]
        assert children.run(["stat", *paths], free=node.free).code == 0
        os.kill(killed, signal.SIGKILL)
        await_true(lambda: not succeeds(lambda: idle.unrecorded("SELECT * FROM t")), "the idle connection fails")
        await_true(lambda: _is_remounted(node, killed), "another mount")
        session.connect().sql("INSERT INTO t VALUES (2)")
        check_database(node, session.path())
    finally:
        session.close()
        node.stop()


def _maps(node: LitefsNode) -> str:
    return Path(f"/proc/{node.child_pid('litefs.cli.node_process')}/maps").read_text()


def _is_remounted(node: LitefsNode, killed: int) -> bool:
    try:
        is_new = node.child_pid("litefs.cli.filesystem_process") != killed
    except (NodeFailedError, FileNotFoundError, ProcessLookupError):
        return False
    return is_new and connection_number(node.mount_dir) is not None
