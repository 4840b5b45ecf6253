"""`litefs mount` as a whole: what of a node survives which death, and what is left when it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import children
from tests.support.filesystem_node import FilesystemNode, NodeFailedError
from tests.support.fuse_mounts import connection_number, detach
from tests.support.litefs_node import STOP_TIMEOUT_S, LitefsNode

FILESYSTEM = "litefs.cli.filesystem_process"
NODE = "litefs.cli.node_process"
REPAIR_TIMEOUT_S = 15.0
"""The promise is a second; a test machine under load gets this long before a repair counts as failed."""


class Node(LitefsNode):
    """A node that can be waited for."""

    def wait(self) -> int:
        """Waits until the supervisor has ended. Returns its exit code."""
        assert self._process is not None
        return self._process.wait(STOP_TIMEOUT_S)


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    node = Node(tmp_path / "node")
    node.start()
    yield node
    node.kill()
    request.node.add_report_section("teardown", "log of the node", node.log_tail())


def sql(node: Node, statement: str) -> children.Finished:
    return children.run(["sqlite3", node.mount_dir / "app.db", statement], free=node.free)


def await_true(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + REPAIR_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {REPAIR_TIMEOUT_S:.0f} s: {what}"
        time.sleep(0.01)


def await_remount(node: Node, killed_pid: int) -> None:
    """Waits for the mount of another filesystem process; connection numbers are used again, process ids are not."""

    def is_remounted() -> bool:
        try:
            return node.child_pid(FILESYSTEM) != killed_pid and connection_number(node.mount_dir) is not None
        except (NodeFailedError, FileNotFoundError, ProcessLookupError):
            return False

    await_true(is_remounted, "another mount")


def serves_http(node: Node) -> bool:
    url = f"http://127.0.0.1:{node.port}"
    return children.run([sys.executable, "-m", "litefs", "status", "-url", url], free=node.free).code == 0


def test_the_mount_serves_on_while_the_node_process_is_replaced(node: Node) -> None:
    await_true(lambda: serves_http(node), "the API serves")
    assert sql(node, "create table t(x)").code == 0
    connection, filesystem_pid = connection_number(node.mount_dir), node.child_pid(FILESYSTEM)
    os.kill(node.child_pid(NODE), signal.SIGKILL)
    for value in range(5):
        assert sql(node, f"insert into t values ({value})").code == 0
    await_true(lambda: serves_http(node), "the API serves again")
    assert connection_number(node.mount_dir) == connection
    assert node.child_pid(FILESYSTEM) == filesystem_pid
    assert sql(node, "select count(*) from t").out == "5\n"


def test_a_dead_filesystem_process_is_replaced_without_losing_a_commit(node: Node) -> None:
    assert sql(node, "create table t(x); insert into t values (1)").code == 0
    killed_pid = node.child_pid(FILESYSTEM)
    children.kill_and_wait(killed_pid)
    await_remount(node, killed_pid)
    assert sql(node, "select * from t").out == "1\n"
    assert sql(node, "insert into t values (2)").code == 0
    await_true(lambda: serves_http(node), "the API serves again")


def test_it_is_repaired_again_and_again(node: Node) -> None:
    assert sql(node, "create table t(x)").code == 0
    for value in range(4):
        killed_pid = node.child_pid(FILESYSTEM)
        children.kill_and_wait(killed_pid)
        await_remount(node, killed_pid)
        assert sql(node, f"insert into t values ({value})").code == 0
    assert sql(node, "select count(*) from t").out == "4\n"


def test_a_hanging_filesystem_process_with_waiting_requests_is_replaced(node: Node) -> None:
    assert sql(node, "create table t(x)").code == 0
    pid = node.child_pid(FILESYSTEM)
    os.kill(pid, signal.SIGSTOP)
    waiting = subprocess.Popen(
        ["sqlite3", str(node.mount_dir / "app.db"), "insert into t values (1)"], stderr=subprocess.DEVNULL
    )
    try:
        children.kill_and_wait(pid)
        assert waiting.wait(REPAIR_TIMEOUT_S) != 0
    finally:
        waiting.kill()
        waiting.wait(REPAIR_TIMEOUT_S)
    await_remount(node, pid)
    assert sql(node, "select count(*) from t").out == "0\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_and_leaves_no_mount(node: Node, number: signal.Signals) -> None:
    pids = node.pids()
    os.kill(node.pid, number)
    assert node.wait() == 0
    assert connection_number(node.mount_dir) is None
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert list(node.mount_dir.iterdir()) == []


def test_it_ends_while_an_application_has_a_database_open(node: Node) -> None:
    assert sql(node, "create table t(x)").code == 0
    holder = subprocess.Popen(
        ["sqlite3", str(node.mount_dir / "app.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdin.write("begin; select count(*) from t;\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "0\n"
        os.kill(node.pid, signal.SIGTERM)
        assert node.wait() == 0
        assert connection_number(node.mount_dir) is None
    finally:
        holder.kill()
        holder.communicate(timeout=REPAIR_TIMEOUT_S)


MAPPING = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for page in range(8):
    os.pwrite(fd, b"\\0", 4096 * page + 4095)  # as SQLite makes it: the kernel has no page of it whole
mapped = mmap.mmap(fd, 8 * 4096)
print("mapped", flush=True)
sys.stdin.readline()
print(sum(mapped[::4096]))
"""


def test_what_was_mapped_and_not_read_yet_is_there_after_the_end(node: Node) -> None:
    """Else whoever opens a database in WAL mode in that moment dies of SIGBUS."""
    application = subprocess.Popen(
        [sys.executable, "-c", MAPPING, str(node.mount_dir / "app.db-shm")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert application.stdout is not None
    try:
        assert application.stdout.readline() == "mapped\n"
        os.kill(node.pid, signal.SIGTERM)
        assert node.wait() == 0
        assert connection_number(node.mount_dir) is None
        assert application.communicate("go on\n", REPAIR_TIMEOUT_S)[0] == "0\n"
        assert application.returncode == 0
    finally:
        application.kill()
        application.wait(REPAIR_TIMEOUT_S)


def test_a_killed_supervisor_takes_everything_with_it(node: Node) -> None:
    pids = node.pids()
    os.kill(node.pid, signal.SIGKILL)
    await_true(lambda: connection_number(node.mount_dir) is None, "the mount is gone")
    await_true(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids[1:]), "the processes are gone")


def test_a_supervisor_that_dies_before_the_mount_is_there_leaves_no_dead_mount(tmp_path: Path) -> None:
    filesystem = FilesystemNode(tmp_path)
    try:
        filesystem.launch().close()
        await_true(lambda: filesystem.exit_code is not None, "the filesystem process ends")
        assert filesystem.exit_code == 0, filesystem.log_text()
        assert connection_number(filesystem.mount_dir) is None
    finally:
        filesystem.stop()


def test_what_a_crash_left_mounted_is_detached_at_the_next_start(node: Node) -> None:
    assert sql(node, "create table t(x)").code == 0
    killed_pid = node.child_pid(FILESYSTEM)
    for pid in reversed(node.pids()):
        os.kill(pid, signal.SIGSTOP)
    for pid in node.pids():
        os.kill(pid, signal.SIGKILL)
    node.wait()
    assert connection_number(node.mount_dir) is not None
    node.start()
    await_remount(node, killed_pid)
    assert sql(node, "insert into t values (1)").code == 0
    detach_count = node.log_text().count("detached what an earlier run left")
    assert detach_count == 1


@pytest.mark.parametrize("shared", ["data_dir", "mount_dir"])
def test_a_second_start_leaves_a_running_node_alone(node: Node, tmp_path: Path, shared: str) -> None:
    assert sql(node, "create table t(x)").code == 0
    connection = connection_number(node.mount_dir)
    second = Node(tmp_path / "second")
    directory = str(getattr(node, shared))
    second.config_path.write_text(second.config_path.read_text().replace(str(getattr(second, shared)), directory))
    try:
        with pytest.raises(NodeFailedError, match="ended with 1"):
            second.start()
        assert f"{directory}: another LiteFS uses this directory" in second.log_text()
        assert connection_number(node.mount_dir) == connection
        assert sql(node, "insert into t values (1)").code == 0
    finally:
        second.kill()


def test_the_application_runs_in_the_mount_and_its_exit_code_is_ours(tmp_path: Path) -> None:
    script = tmp_path / "application.sh"
    script.write_text('sqlite3 "$1/app.db" "create table t(x); insert into t values (7); select x from t"; exit 23\n')
    node = Node(tmp_path / "node", extra=f"exec: sh {script} {tmp_path}/node/mnt\n")
    try:
        node.start()
        assert node.wait() == 23
        assert "\n7\n" in node.log_text()
        assert connection_number(node.mount_dir) is None
    finally:
        node.kill()
        detach(node.mount_dir)
