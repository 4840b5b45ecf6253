"""The supervisor with two stand-ins for its processes, which do what the test tells them.

Each stand-in is a small program. It reports what it sees on its control socket, and obeys one command a line; both over
a socket of the test. No mount is involved: `tests/mount` has the real processes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from litefs.cli.plan import Plan
from litefs.cli.supervisor import START_ATTEMPTS
from litefs.link.settings import FilesystemSettings, Mounted, NewLink, NodeReady, NodeSettings, SupervisorMessage
from tests.support import children

TIMEOUT_S = 20.0

STAND_IN = """
import json, os, select, socket, sys
name, address = sys.argv[1:3]
test = socket.socket(socket.AF_UNIX)
test.connect(address)
def say(**fields):
    test.sendall(json.dumps(fields).encode() + b"\\n")
settings = json.loads(os.environ.get("LITEFS_SETTINGS", "{}"))
say(name=name, pid=os.getpid(), settings=settings, group=os.getpgid(0))
control = socket.socket(fileno=settings["control_fd"])
link = socket.socket(fileno=settings["link_fd"])
obedient = True
poller = select.poll()
poller.register(control, select.POLLIN)
poller.register(test, select.POLLIN)

def on_control():
    global link
    try:
        data, fds, _, _ = socket.recv_fds(control, 65536, 4)
    except ConnectionResetError:  # the supervisor died with something of ours unread
        data, fds = b"", []
    if fds:
        link = socket.socket(fileno=fds[0])
    for line in data.splitlines():
        if b"step-down" in line:
            control.sendall(b'{"type": "stepped-down"}\\n')
        else:
            say(event=json.loads(line), fds=len(fds))
    if not data:
        say(event="control closed")
        poller.unregister(control)
        if obedient:
            os._exit(0)

def obey(verb, rest):
    global obedient
    if verb == "exit":
        os._exit(int(rest))
    if verb == "control":
        control.sendall(rest.encode() + b"\\n")
    elif verb == "disobey":
        obedient = False
    elif verb == "deaf":
        poller.unregister(control)
        control.shutdown(socket.SHUT_RD)
    elif verb == "write-link":
        link.sendall(rest.encode())
    say(done=link.recv(100).decode() if verb == "read-link" else verb)

while True:
    ready = {fd for fd, _ in poller.poll()}
    if control.fileno() in ready:
        on_control()
    if test.fileno() in ready:
        line = test.recv(65536).decode()
        if not line:
            os._exit(1)
        verb, _, rest = line.strip().partition(" ")
        obey(verb, rest)
"""

APPLICATION = """
import os, signal, socket, sys
test = socket.socket(socket.AF_UNIX)
def obey(number, frame):
    test.sendall(b'{"event": "signal %d"}\\n' % number)
signal.signal(signal.SIGTERM, obey)
test.connect(sys.argv[1])
test.sendall(b'{"name": "application", "pid": %d, "settings": {}, "group": %d}\\n' % (os.getpid(), os.getpgid(0)))
for line in test.makefile():
    verb, _, rest = line.strip().partition(" ")
    if verb == "exit":
        os._exit(int(rest))
    if verb == "die":
        signal.signal(int(rest), signal.SIG_DFL)
        os.kill(os.getpid(), int(rest))
"""


class StandIn:
    """The test's end of one child of the supervisor."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        self._connection = connection
        self._lines = connection.makefile("r")
        hello = self.hear()
        self.name = hello["name"]
        self.pid: int = hello["pid"]
        self.settings = hello["settings"]
        self.group: int = hello["group"]

    def hear(self) -> Any:
        """Waits for the next thing that the child says; None at its end."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def tell(self, command: str) -> None:
        """Gives a command that ends the program, or that only the application understands."""
        self._connection.sendall(command.encode() + b"\n")

    def ask(self, command: str) -> str:
        """Gives a command and waits until it is done; nothing else may be on its way to us."""
        self.tell(command)
        return str(self.hear()["done"])

    def reads_link(self) -> bool:
        """Reads what the other process wrote; false if this one is dead."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.tell("read-link")
            return self.hear() is not None
        return False

    def send_control(self, message: SupervisorMessage) -> None:
        self.ask("control " + msgspec.json.encode(message).decode())

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


class Bench:
    """A running supervisor and what connects to the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "test.sock"))
        self.listener.listen()
        self.listener.settimeout(TIMEOUT_S)
        self.process: subprocess.Popen[str] | None = None
        self.waiting, self.all = list[StandIn](), list[StandIn]()

    def application(self) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", APPLICATION, str(self.directory / "test.sock")]

    def start(self, *, commands: list[list[str]] | None = None, **options: bool) -> None:
        data_dir, mount_dir = str(self.directory / "data"), str(self.directory / "mnt")
        filesystem = FilesystemSettings(link_fd=-1, control_fd=-1, data_dir=data_dir, mount_dir=mount_dir, primary=True)
        node = NodeSettings(
            link_fd=-1,
            control_fd=-1,
            data_dir=data_dir,
            mount_dir=mount_dir,
            http_host="127.0.0.1",
            http_port=0,
            primary=True,
        )
        stand_in = [sys.executable, "-I", "-S", "-c", STAND_IN]
        address = str(self.directory / "test.sock")
        plan = Plan(
            settings={"filesystem": msgspec.to_builtins(filesystem), "node": msgspec.to_builtins(node)},
            programs={name: [*stand_in, name, address] for name in ("filesystem", "node")},
            commands=commands or [],
            **options,
        )
        plan_fd = os.memfd_create("plan")
        os.write(plan_fd, plan.to_json().encode())
        os.lseek(plan_fd, 0, os.SEEK_SET)
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "litefs.cli.supervisor", str(plan_fd)],
                pass_fds=(plan_fd,),
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "sidecar")},
                text=True,
            )
        os.close(plan_fd)

    def accept(self, name: str) -> StandIn:
        """Waits until a child of this name has connected; others that come first are kept for later."""
        for stand_in in self.waiting:
            if stand_in.name == name:
                self.waiting.remove(stand_in)
                return stand_in
        while True:
            stand_in = StandIn(self.listener.accept()[0])
            self.all.append(stand_in)
            if stand_in.name == name:
                return stand_in
            self.waiting.append(stand_in)

    def accept_both(self) -> tuple[StandIn, StandIn]:
        """Waits for the filesystem process, and for the node process that has the other end of its link."""
        filesystem, node = self.accept("filesystem"), self.accept("node")
        filesystem.ask("write-link ping")
        while not node.reads_link():
            node = self.accept("node")  # times out if there is no such node; an earlier one died with its filesystem
        return filesystem, node

    def accept_ready(self) -> tuple[StandIn, StandIn]:
        filesystem, node = self.accept_both()
        filesystem.send_control(Mounted(device=2**30))
        node.send_control(NodeReady())
        return filesystem, node

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        if bench.process is not None and bench.process.poll() is None:
            bench.process.kill()
            bench.process.wait()
        for stand_in in bench.all:
            stand_in.close()
        bench.listener.close()


def link_works(one: StandIn, other: StandIn) -> bool:
    one.ask("write-link ping")
    return other.ask("read-link") == "ping"


def test_starts_both_processes_with_their_settings_and_a_link(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_both()
    assert msgspec.convert(filesystem.settings, FilesystemSettings).mount_dir == str(bench.directory / "mnt")
    assert msgspec.convert(node.settings, NodeSettings).http_host == "127.0.0.1"
    assert link_works(filesystem, node)
    assert (bench.directory / "data").is_dir()
    assert (bench.directory / "mnt").is_dir()


def test_keeps_the_terminals_interrupt_from_its_processes(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_both()
    assert filesystem.group == filesystem.pid
    assert node.group == node.pid


def test_a_dead_node_process_is_replaced_and_only_it(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    node.tell("exit 1")
    heard = filesystem.hear()
    assert msgspec.convert(heard["event"], NewLink) == NewLink()
    assert heard["fds"] == 1
    replacement = bench.accept("node")
    assert replacement.pid != node.pid
    assert link_works(filesystem, replacement)


def test_a_killed_node_process_is_replaced_at_once(bench: Bench) -> None:
    bench.start()
    _, node = bench.accept_ready()
    started_at = time.monotonic()
    os.kill(node.pid, signal.SIGKILL)
    bench.accept("node")
    assert time.monotonic() - started_at < 1.0


def test_a_dead_filesystem_process_takes_the_node_process_with_it_and_both_start_anew(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    started_at = time.monotonic()
    os.kill(filesystem.pid, signal.SIGKILL)
    assert node.hear() is None
    new_filesystem, new_node = bench.accept_both()
    assert time.monotonic() - started_at < 1.0
    assert {new_filesystem.pid, new_node.pid}.isdisjoint({filesystem.pid, node.pid})
    assert link_works(new_node, new_filesystem)


def test_a_node_process_that_dies_together_with_the_filesystem_process_is_started_once(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    bench.signal(signal.SIGSTOP)
    children.kill_and_wait(node.pid)
    children.kill_and_wait(filesystem.pid)
    bench.signal(signal.SIGCONT)
    bench.accept_both()
    bench.signal(signal.SIGTERM)
    assert bench.wait() == 0
    assert bench.log().count("the node process ended") == 0


def test_a_filesystem_process_that_does_not_read_is_killed(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    filesystem.ask("deaf")
    node.tell("exit 1")
    assert filesystem.hear() is None
    bench.accept_both()
    assert "does not read its control socket: killing it" in bench.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_node_process_then_the_filesystem_process(bench: Bench, number: signal.Signals) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    node.ask("disobey")
    bench.signal(number)
    assert node.hear() == {"event": "control closed"}
    # As long as the node process runs, the filesystem process serves it.
    assert link_works(node, filesystem)
    node.tell("exit 0")
    assert filesystem.hear() == {"event": "control closed"}
    assert bench.wait() == 0
    assert bench.log().endswith("INFO supervisor: stopped\n")


def test_a_signal_during_the_start_ends_it(bench: Bench) -> None:
    bench.start()
    bench.accept_both()
    bench.signal(signal.SIGTERM)
    assert bench.wait() == 0


def test_the_processes_end_with_a_killed_supervisor(bench: Bench) -> None:
    bench.start()
    filesystem, node = bench.accept_ready()
    bench.signal(signal.SIGKILL)
    assert filesystem.hear() == {"event": "control closed"}
    assert node.hear() == {"event": "control closed"}


@pytest.mark.parametrize("exit_code", [0, 3])
def test_the_end_of_the_application_ends_litefs_with_its_code(bench: Bench, exit_code: int) -> None:
    bench.start(commands=[bench.application()])
    filesystem, _ = bench.accept_ready()
    bench.accept("application").tell(f"exit {exit_code}")
    assert filesystem.hear() == {"event": "control closed"}
    assert bench.wait() == exit_code


def test_a_signal_that_kills_the_application_is_128_and_more(bench: Bench) -> None:
    bench.start(commands=[bench.application()])
    bench.accept_ready()
    bench.accept("application").tell("die 6")
    assert bench.wait() == 128 + 6


@pytest.mark.parametrize(("command", "exit_code"), [("exit 0", 0), ("exit 4", 4), ("die 15", 0)])
def test_the_application_gets_the_signal_first_and_is_waited_for(bench: Bench, command: str, exit_code: int) -> None:
    bench.start(commands=[bench.application()])
    filesystem, node = bench.accept_ready()
    application = bench.accept("application")
    bench.signal(signal.SIGTERM)
    assert application.hear() == {"event": "signal 15"}
    # The node works on while the application ends.
    assert link_works(filesystem, node)
    os.kill(node.pid, signal.SIGKILL)
    assert filesystem.hear()["event"]["type"] == "new-link"
    bench.accept("node")
    application.tell(command)
    assert bench.wait() == exit_code


def test_the_application_starts_when_the_mount_and_the_node_are_ready(bench: Bench) -> None:
    bench.start(commands=[bench.application()])
    filesystem, node = bench.accept_both()
    node.send_control(NodeReady())
    filesystem.send_control(Mounted(device=2**30))
    application = bench.accept("application")
    # It belongs to the terminal's group, as if it had been started there.
    assert bench.process is not None
    assert application.group == os.getpgid(bench.process.pid)
    assert application.settings == {}


def test_with_skip_sync_the_mount_is_enough(bench: Bench) -> None:
    bench.start(commands=[bench.application()], skip_sync=True)
    filesystem, _ = bench.accept_both()
    filesystem.send_control(Mounted(device=2**30))
    bench.accept("application")


def test_without_skip_sync_the_mount_is_not_enough(bench: Bench) -> None:
    bench.start(commands=[bench.application()])
    filesystem, _ = bench.accept_both()
    filesystem.send_control(Mounted(device=2**30))
    bench.signal(signal.SIGTERM)
    assert bench.wait() == 0
    assert "starting subprocess" not in bench.log()


def test_commands_run_one_after_the_other(bench: Bench) -> None:
    bench.start(commands=[bench.application(), bench.application()])
    bench.accept_ready()
    first = bench.accept("application")
    first.tell("exit 0")
    second = bench.accept("application")
    assert second.pid != first.pid
    second.tell("exit 7")
    assert bench.wait() == 7


def test_a_failing_command_before_the_last_ends_litefs(bench: Bench) -> None:
    bench.start(commands=[bench.application(), bench.application()])
    bench.accept_ready()
    bench.accept("application").tell("exit 5")
    assert bench.wait() == 5
    assert bench.log().count("starting subprocess") == 1


def test_an_application_that_is_not_there_is_named(bench: Bench) -> None:
    bench.start(commands=[["/nonexistent/app"]])
    bench.accept_ready()
    assert bench.wait() == 1
    assert "cannot start /nonexistent/app: No such file or directory" in bench.log()


def test_gives_up_when_a_process_never_starts(bench: Bench) -> None:
    bench.start()
    for _ in range(START_ATTEMPTS):
        bench.accept("filesystem").tell("exit 9")
    assert bench.wait() == 9
    assert "the filesystem process did not start, attempts: 5" in bench.log()


def test_gives_up_at_once_when_a_process_refuses_its_settings(bench: Bench) -> None:
    bench.start()
    _, node = bench.accept_both()
    node.tell("exit 2")
    assert bench.wait() == 2


def test_with_exit_on_error_off_it_stays_until_a_signal(bench: Bench) -> None:
    bench.start(exit_on_error=False)
    filesystem, node = bench.accept_both()
    node.tell("exit 2")
    assert filesystem.hear()["event"]["type"] == "new-link"
    # Still served, and nothing is started again.
    filesystem.send_control(Mounted(device=2**30))
    bench.signal(signal.SIGTERM)
    assert filesystem.hear() == {"event": "control closed"}
    assert bench.wait() == 0
    assert "exit-on-error is false: waiting for a signal" in bench.log()


def test_directories_that_cannot_be_made_end_it(bench: Bench) -> None:
    (bench.directory / "data").touch()
    bench.start()
    assert bench.wait() == 1
    assert "cannot prepare the directories" in bench.log()


def test_the_mount_point_is_closed_to_others_while_nothing_is_mounted(bench: Bench) -> None:
    bench.start()
    bench.accept_both()
    mode = (bench.directory / "mnt").stat().st_mode & 0o777
    assert mode == 0o555 if os.geteuid() == 0 else mode & 0o200


def test_files_below_the_mount_are_reported(bench: Bench) -> None:
    bench.start()
    filesystem, _ = bench.accept_ready()
    (bench.directory / "mnt" / "shadow.db").touch()
    os.kill(filesystem.pid, signal.SIGKILL)
    bench.accept_both()
    assert "files lie in " in bench.log()
    assert bench.log().count("shadow.db") == 1
