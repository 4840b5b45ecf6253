"""A whole node: `litefs mount -config FILE`, ours or any program that takes the same file.

Strategy: the static lease, two nodes on loopback. The mount is known from the kernel's mount table, positions and
rows are read by child processes; this process never touches a mount. Teardown ends the node by SIGTERM and
aborts the connection of one that does not go.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support import children
from tests.support.filesystem_node import REPOSITORY, NodeFailedError
from tests.support.fuse_mounts import abort, connection_number, detach

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.002

_PORTS = (10_000, 30_000)
"""Below what Linux gives to outgoing connections, and what Kubernetes gives to Services."""


def own_command() -> list[str]:
    """Returns the command line that starts this checkout's `litefs` with this interpreter."""
    return [sys.executable, "-m", "litefs"]


def free_port() -> int:
    """Returns a TCP port of the loopback interface that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Returns different ones, of those that no outgoing connection of anybody is given meanwhile."""
    found: set[int] = set()
    draw = random.SystemRandom()
    while len(found) < count:
        port = draw.randrange(*_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


class LitefsNode:
    """One node with a static lease.

    Attributes:
        mount_dir: where applications open databases; the caller never touches it.
        data_dir: the data directory.
        log_path: what the node printed, over all its starts.
        port: of its HTTP API on 127.0.0.1.
        environment: added to the environment of the next start.
    """

    def __init__(
        self,
        root: Path,
        *,
        primary_port: int = 0,
        command: list[str] | None = None,
        extra: str = "",
    ) -> None:
        """Makes directories and the configuration file; starts nothing.

        Args:
            root: an empty directory of this node's own.
            primary_port: of the primary this node follows; 0 makes it the primary.
            command: what is started with `mount -config FILE`; this checkout's `litefs` if None.
            extra: YAML appended to the configuration.
        """
        self.root = root.resolve()
        self.mount_dir = self.root / "mnt"
        self.data_dir = self.root / "data"
        self.log_path = self.root / "litefs.log"
        self.config_path = self.root / "litefs.yml"
        self.port = free_port()
        self.environment: dict[str, str] = {}
        self._command = command or own_command()
        self._process: subprocess.Popen[bytes] | None = None
        self.mount_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.mkdir(exist_ok=True)
        self.config_path.write_text(
            f'fuse:\n  dir: "{self.mount_dir}"\n'
            f'data:\n  dir: "{self.data_dir}"\n'
            f'http:\n  addr: "127.0.0.1:{self.port}"\n'
            "lease:\n"
            '  type: "static"\n'
            '  hostname: "primary"\n'
            f'  advertise-url: "http://127.0.0.1:{primary_port or self.port}"\n'
            f"  candidate: {'false' if primary_port else 'true'}\n"
            f"{extra}"
        )

    @property
    def pid(self) -> int:
        """The process id of the node's first process."""
        assert self._process is not None, "the node is not running"
        return self._process.pid

    def start(self) -> None:
        """Starts the node and returns when its mount is there.

        Raises:
            NodeFailedError: it ended, or did not mount in time.
        """
        path = os.pathsep.join([str(REPOSITORY / "sidecar"), os.environ.get("PYTHONPATH", "")])
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "mount", "-config", str(self.config_path)],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path} | self.environment,
                start_new_session=True,
            )
        self.await_mount()

    def await_mount(self) -> None:
        """Waits until the kernel has a mount at `mount_dir`."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while connection_number(self.mount_dir) is None:
            if self._process.poll() is not None:
                raise NodeFailedError(f"the node ended with {self._process.returncode}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise NodeFailedError(f"no mount after {START_TIMEOUT_S:.0f} s\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ends the node in good order; safe to call in any state."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.free()
                self._kill_all()
                detach(self.mount_dir)
                raise NodeFailedError(f"the node did not end on SIGTERM\n{self.log_tail()}") from None
        detach(self.mount_dir)

    def kill(self) -> None:
        """Ends every process of the node with SIGKILL and detaches what is left of the mount; safe in any state."""
        self.free()
        if self._process is not None:
            self._kill_all()
        detach(self.mount_dir)

    def restart(self) -> None:
        """Stops in good order and starts again on the same data directory."""
        self.stop()
        self.start()

    def free(self) -> None:
        """Aborts the connection, so that whatever waits for this mount gets an error."""
        abort(self.mount_dir)

    @property
    def is_alive(self) -> bool:
        """Whether the node runs and its mount is there."""
        running = self._process is not None and self._process.poll() is None
        return running and connection_number(self.mount_dir) is not None

    def pids(self) -> list[int]:
        """Returns the process ids of the node: the first process and all that descend from it."""
        return [self.pid, *_descendants(self.pid)]

    def child_pid(self, program: str) -> int:
        """Returns the process id of the descendant whose command line contains `program`."""
        for pid in _descendants(self.pid):
            if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise NodeFailedError(f"the node has no process {program}\n{self.log_tail()}")

    def read(self, name: str) -> str:
        """Returns the text of a file of the mount, read by a child process; "" when it is missing."""
        return children.run(["cat", self.mount_dir / name], free=self.free).out

    def log_text(self) -> str:
        """Returns all log lines so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        """Returns the last forty log lines."""
        return "\n".join(self.log_text().splitlines()[-40:])

    def _kill_all(self) -> None:
        assert self._process is not None
        for pid in self.pids() if self._process.poll() is None else []:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(STOP_TIMEOUT_S)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, listing.read_text().split()):
                found += [child, *_descendants(child)]
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        pass
    return found


class Pair:
    """A primary and a replica that follows it."""

    def __init__(self, root: Path, *, command: list[str] | None = None) -> None:
        """Makes directories and configuration; starts nothing."""
        self.primary = LitefsNode(root / "primary", command=command)
        self.replica = LitefsNode(root / "replica", command=command, primary_port=self.primary.port)
        self.nodes = [self.primary, self.replica]

    def start(self) -> None:
        """Starts both nodes."""
        self.primary.start()
        self.replica.start()

    def stop(self) -> None:
        """Stops both nodes, the replica first."""
        try:
            self.replica.stop()
        finally:
            self.primary.stop()
