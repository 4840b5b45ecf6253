"""The rules of supervision that need no running supervisor: back-off, the order of a death, the end of the stubborn."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litefs.cli import supervisor
from litefs.cli.child import Child, spawn
from litefs.cli.plan import Plan
from litefs.cli.supervisor import RESTART_DELAY_MAX_S, STABLE_AFTER_S, Backoff, Supervisor

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"


def plan() -> Plan:
    log = {"format": "text", "timestamp": False, "debug": False}
    settings: dict[str, dict[str, object]] = {
        "filesystem": {"data_dir": "/nonexistent", "mount_dir": "/nonexistent", "log": log},
        "node": {},
    }
    return Plan(settings=settings, programs={}, commands=[])


def delays(deaths: list[float], backoff: Backoff) -> list[float]:
    return [backoff.next_delay_s(lived_s) for lived_s in deaths]


def test_backs_off_from_at_once_to_a_bound() -> None:
    assert delays([0.0] * 9, Backoff()) == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert RESTART_DELAY_MAX_S == 5.0


def test_a_long_life_is_rewarded() -> None:
    backoff = Backoff()
    assert delays([0.0, 0.0, STABLE_AFTER_S, 0.0], backoff) == [0.0, 0.1, 0.0, 0.1]
    assert backoff.death_n == 2


class RecordedChild(Child):
    """A child that writes down in which order it is told and reaped."""

    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__(name, spawn(["true"], environment={}), None, time.monotonic())
        self.events = events

    def send(self, line: bytes, descriptors: list[int]) -> bool:
        self.events.append(f"{self.name} is told {line.decode().strip()} with {len(descriptors)} descriptor")
        return True

    def reap(self) -> int:
        self.events.append(f"{self.name} is reaped")
        return super().reap()


def test_the_filesystem_process_is_told_of_a_death_before_the_pid_is_free() -> None:
    events: list[str] = []
    node_supervisor = Supervisor(plan())
    filesystem, node = RecordedChild("filesystem", events), RecordedChild("node", events)
    node_supervisor._filesystem, node_supervisor._node = filesystem, node
    assert node.wait(10)
    node_supervisor._on_node_death(node)
    told = 'filesystem is told {"type": "new-link"} with 1 descriptor'
    assert events == [told, "node is reaped"]
    assert filesystem.wait(10)
    filesystem.reap()
    assert node_supervisor._link_for_node is not None
    node_supervisor._link_for_node.close()


def test_a_process_that_ignores_everything_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "STOP_BY_CLOSING_S", 0.01)
    monkeypatch.setattr(supervisor, "STOP_BY_TERM_S", 0.01)
    monkeypatch.setattr(supervisor, "STOP_BY_KILL_S", 10.0)
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"x\n"
        child = Child("node", process.pid, None, 0.0)
        Supervisor(plan())._stop(child)
    assert "ERROR supervisor: the node process does not stop: killing it" in capfd.readouterr().err
    with pytest.raises(ProcessLookupError):
        child.kill(0)
    process.returncode = -signal.SIGKILL  # reaped by the child object, not by Popen


def test_a_child_speaks_in_lines_however_they_arrive() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    child = Child("node", spawn(["true"], environment={}), ours, 0.0)
    assert child.wait(10)  # until its exec it has our sockets open too
    assert child.receive_lines() == []
    theirs.sendall(b"one\ntw")
    assert child.receive_lines() == [b"one"]
    theirs.sendall(b"o\n")
    assert child.receive_lines() == [b"two"]
    theirs.close()
    assert child.receive_lines() == []
    assert child.control is None
    assert not child.send(b"x\n", [])
    assert child.reap() == 0


def test_a_message_that_is_not_taken_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    child = Child("node", spawn(["true"], environment={}), ours, 0.0)
    line = b"x" * 1023 + b"\n"
    while child.send(line, []):
        pass
    assert child.wait(10)
    child.reap()
    theirs.close()


ORPHANS = """
import os
from litefs.cli.child import reap_orphans
def ended():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid
def exists(pid):
    return os.path.exists(f"/proc/{pid}")
known, orphan = ended(), ended()
reap_orphans({known})
assert exists(known)
os.waitpid(known, 0)
reap_orphans(set())
assert not exists(orphan)
reap_orphans(set())
"""


def test_orphans_are_reaped_and_known_children_are_not() -> None:
    subprocess.run([sys.executable, "-c", ORPHANS], check=True, timeout=20, env={"PYTHONPATH": ":".join(sys.path)})


def test_directories_are_told_apart_however_long_their_names_are(tmp_path: Path) -> None:
    names = ["x", *(prefix + end for prefix in ("n" * 48, "n" * 200) for end in ("", "1", "2"))]
    claims = [supervisor._claim(str(tmp_path / name)) for name in names]
    try:
        for name in names:
            with pytest.raises(OSError, match="another LiteFS uses this directory"):
                supervisor._claim(str(tmp_path / name))
    finally:
        for each in claims:
            each.close()
