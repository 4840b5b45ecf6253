"""Starts the filesystem process and the node process, restarts them, and winds everything up.

Strategy: one thread, one `poll` over pidfds, control sockets and a signal pipe. Nothing here waits for a child while
the node runs, but for the last act of a node process whose mount is dead: each death is an event, each start is due at
a time. Only the final wind-up is a straight sequence, every wait of which has a bound.

    node process dies        → NewLink to the filesystem process, then reap, then start a new node process
    filesystem process dies  → abort and detach the mount, end the node process; when it is reaped too, start both
    application ends         → wind up with its exit code
    SIGTERM, SIGINT          → to the application, which is waited for; without one, wind up

Guarantees: standard library only, and few modules of it, for this process lives as long as the pod and its memory
counts. The mount is never touched. The filesystem process learns that a node process is dead before its pid can be
used again. On wind-up the mount is detached before anything else stops.

Assumes: `launch.py` wrote the plan; children treat the end of file of their control socket as the order to stop.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time
import zlib

from litefs.cli.child import Child, reap_orphans, spawn
from litefs.cli.mount_table import abort_connection, detach_all, fuse_connections_at
from litefs.cli.plan import Plan

RESTART_DELAY_FIRST_S = 0.1
RESTART_DELAY_MAX_S = 5.0
NODE_LAST_ACT_S = 0.5
"""The node process notices a dead filesystem process at once and then ends by itself."""
STABLE_AFTER_S = 10.0  # a child that lived this long starts its back-off anew
START_ATTEMPTS = 5  # deaths before the node was ever ready: 1.5 s of attempts, then the container runtime's turn
EXIT_CONFIG_REFUSED = 2  # no second attempt changes this
DYING_S = 0.5
HIDDEN_NAMES_SHOWN = 5
CLAIM_NAME_BYTES_MAX = 48  # with two numbers and a checksum it fits the 108 bytes of sun_path

STEP_DOWN = b'{"type": "step-down"}\n'
STEP_DOWN_S = 5.0  # a handoff takes some 20 ms; the node process gives up after 4 s
# A node that leaves has handed over before. The kubelet kills a sidecar 2 s after its SIGTERM where the application
# used up the grace period, and a pod whose mount is still attached then never ends.
STEP_DOWN_LEAVING_S = 1.0

# Wind-up: 8 s for each of the two processes at worst, within the 30 s that Kubernetes grants by default.
STOP_BY_CLOSING_S = 5.0
STOP_BY_TERM_S = 2.0
STOP_BY_KILL_S = 1.0


class Backoff:
    """When a child that keeps dying may start again: at once the first time, then doubling up to a bound."""

    __slots__ = ("death_n", "delay_s")

    def __init__(self) -> None:
        self.death_n = 0
        self.delay_s = 0.0

    def next_delay_s(self, lived_s: float) -> float:
        """Notes a death after `lived_s` seconds of life and returns the pause before the next start, in seconds."""
        if lived_s >= STABLE_AFTER_S:
            self.death_n = 0
            self.delay_s = 0.0
        delay_s = self.delay_s
        self.death_n += 1
        self.delay_s = min(max(2 * delay_s, RESTART_DELAY_FIRST_S), RESTART_DELAY_MAX_S)
        return delay_s


class Supervisor:
    """The state of one node: its children, and what is due."""

    def __init__(self, plan: Plan) -> None:
        """Args: plan: what to start."""
        self._plan = plan
        self._environment = dict(os.environ)
        self._filesystem: Child | None = None
        self._node: Child | None = None
        self._application: Child | None = None
        self._commands = list(plan.commands)
        self._link_for_node: socket.socket | None = None
        self._filesystem_due_at: float | None = 0.0
        self._node_due_at: float | None = None
        self._filesystem_backoff = Backoff()
        self._node_backoff = Backoff()
        self._mounted = False
        self._node_ready = False
        self._was_ready = False
        self._leaves = False
        self._gave_up = False
        self._connection: int | None = None
        self._stop_signal: int | None = None
        self._exit_code: int | None = None
        self._wake_fd = -1

    # ---- the loop ----

    def run(self) -> int:
        """Runs the node until it is told to stop or cannot go on.

        Returns:
            The exit code of litefs.
        """
        self._wake_fd = _signal_pipe()
        try:
            # Before anything is detached: what looks like the mount of an earlier run may be that of a running node.
            claims = [_claim(path) for path in (self._plan.data_dir, self._plan.mount_dir)]
        except OSError as error:
            self._log("ERROR", f"{error.filename}: {error.strerror}")
            return 1
        self._prepare_directories()
        try:
            while self._exit_code is None:
                self._start_what_is_due()
                self._poll()
                if os.getpid() == 1:
                    reap_orphans({child.pid for child in self._children()})
        finally:
            self._wind_up()
            for claim in claims:
                claim.close()
        return self._exit_code

    def _prepare_directories(self) -> None:
        mount_dir = self._plan.mount_dir
        try:
            if not self._plan.skip_unmount and detach_all(mount_dir):
                self._log("INFO", f"detached what an earlier run left at {mount_dir}")
            os.makedirs(self._plan.data_dir, exist_ok=True)
            # Below a mount that was left on purpose nothing is created, nor is it looked at.
            if not fuse_connections_at(mount_dir):
                os.makedirs(mount_dir, exist_ok=True)
                _close_mount_point(mount_dir)
        except OSError as error:
            self._fail(f"cannot prepare the directories: {error.filename}: {error.strerror}", 1)

    def _children(self) -> list[Child]:
        return [child for child in (self._filesystem, self._node, self._application) if child is not None]

    def _poll(self) -> None:
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        for child in self._children():
            poller.register(child.pidfd, select.POLLIN)
            if child.control is not None:
                poller.register(child.control, select.POLLIN)
        poller.poll(self._poll_timeout_ms())
        # Everything is asked again instead of trusting descriptor numbers, which a start in between may have reused.
        for number in _received_signals(self._wake_fd):
            self._on_signal(number)
        for child in self._children():
            for line in child.receive_lines():
                self._on_message(line)
        self._note_deaths()

    def _poll_timeout_ms(self) -> float | None:
        due = [at for at in (self._filesystem_due_at, self._node_due_at) if at is not None]
        # A filesystem process that is due waits for the old node process: its pidfd wakes us, not the clock.
        if not due or (self._filesystem_due_at is not None and self._node is not None):
            return None
        return max(0.0, min(due) - time.monotonic()) * 1000

    def _note_deaths(self) -> None:
        if self._filesystem is not None and self._filesystem.wait(0):
            self._on_filesystem_death(self._filesystem)
        if self._node is not None and self._node.wait(0):
            self._on_node_death(self._node)
        if self._application is not None and self._application.wait(0):
            self._on_application_end(self._application)

    # ---- starting ----

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        if self._filesystem_due_at is not None and self._node is None and now >= self._filesystem_due_at:
            self._filesystem_due_at = None
            self._start_filesystem()
            self._node_due_at = now
        if self._node_due_at is not None and self._filesystem is not None and now >= self._node_due_at:
            self._node_due_at = None
            self._start_node()

    def _start_filesystem(self) -> None:
        self._report_hidden_files()
        ours, theirs = socket.socketpair()
        self._replace_link(ours)
        with theirs:
            self._filesystem = self._start("filesystem", theirs)

    def _report_hidden_files(self) -> None:
        """Says so when an application wrote into the mount point while nothing was mounted on it."""
        mount_dir = self._plan.mount_dir
        if fuse_connections_at(mount_dir) or not os.path.isdir(mount_dir):
            return
        if names := os.listdir(mount_dir):
            shown = ", ".join(sorted(names)[:HIDDEN_NAMES_SHOWN])
            self._log(
                "ERROR",
                f"files lie in {mount_dir} below the mount, hidden and not replicated "
                f"(written while nothing was mounted?): {shown}",
            )

    def _start_node(self) -> None:
        assert self._link_for_node is not None
        assert self._filesystem is not None
        with self._link_for_node as link:
            self._node = self._start("node", link)
        self._link_for_node = None

    def _start(self, name: str, link: socket.socket) -> Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        settings = {**self._plan.settings[name], "link_fd": link.fileno(), "control_fd": theirs.fileno()}
        if name == "node":
            settings["leaves"] = self._leaves
        environment = {**self._environment, "LITEFS_SETTINGS": json.dumps(settings)}
        with theirs:
            argv = self._plan.programs[name]
            pid = spawn(argv, environment=environment, pass_fds=(link.fileno(), theirs.fileno()))
        self._log("DEBUG", f"started the {name} process, pid {pid}")
        return Child(name, pid, ours, time.monotonic())

    def _replace_link(self, for_node: socket.socket) -> None:
        if self._link_for_node is not None:
            self._link_for_node.close()
        self._link_for_node = for_node

    def _give_filesystem(self, link: socket.socket) -> None:
        """Gives it a new link; a filesystem process that does not take it hangs, and is killed to be started anew."""
        assert self._filesystem is not None
        taken = self._filesystem.send(b'{"type": "new-link"}\n', [link.fileno()])
        # A process that is ending has closed its sockets a moment before it can be reaped.
        if not taken and not self._filesystem.wait(DYING_S):
            self._log("ERROR", "the filesystem process does not read its control socket: killing it")
            self._kill(self._filesystem)

    # ---- events ----

    def _on_message(self, line: bytes) -> None:
        message = json.loads(line)
        if message["type"] == "mounted":
            self._mounted = True
            self._connection = message["device"]
            self._log("INFO", f"LiteFS mounted to: {self._plan.mount_dir}")
        elif message["type"] == "node-ready":
            self._node_ready = True
        elif message["type"] == "leaving":
            self._leaves = True
        if self._mounted and (self._node_ready or self._plan.skip_sync) and not self._was_ready:
            self._was_ready = True
            self._start_next_command()

    def _on_node_death(self, node: Child) -> None:
        self._node = None
        self._node_ready = False
        if self._filesystem is None:
            node.reap()  # killed by us: its mount is gone
            return
        # Crash: if we die before the message, the filesystem process sees our end of file and detaches. Until `reap`
        # the pid cannot belong to anybody else, so nobody can be taken for the node process in between.
        ours, theirs = socket.socketpair()
        with theirs:
            self._give_filesystem(theirs)
        self._replace_link(ours)
        self._node_due_at = self._after_death(node, self._node_backoff)

    def _on_filesystem_death(self, filesystem: Child) -> None:
        self._filesystem = None
        self._mounted = False
        self._connection = None  # the number may soon be somebody else's mount
        self._detach()
        if self._node is not None:
            # It has something to do that no other process can: to void the wal-indexes that applications have mapped.
            self._node.wait(NODE_LAST_ACT_S)
            self._node.kill(signal.SIGKILL)
        self._node_due_at = None
        self._filesystem_due_at = self._after_death(filesystem, self._filesystem_backoff)

    def _after_death(self, child: Child, backoff: Backoff) -> float | None:
        """Reaps the child. Returns when it is to be started again (monotonic seconds), None for never."""
        now = time.monotonic()
        code = child.reap()
        delay_s = backoff.next_delay_s(now - child.started_at)
        self._log("ERROR", f"the {child.name} process ended with {_ending(code)}")
        if not self._was_ready and (code == EXIT_CONFIG_REFUSED or backoff.death_n >= START_ATTEMPTS):
            self._fail(f"the {child.name} process did not start, attempts: {backoff.death_n}", _exit_code_of(code) or 1)
        if self._gave_up:
            return None
        self._log("INFO", f"starting the {child.name} process again in {delay_s:.1f} s")
        return now + delay_s

    def _start_next_command(self) -> None:
        if not self._commands or self._stop_signal is not None:
            return
        argv = self._commands.pop(0)
        self._log("INFO", f"starting subprocess: {' '.join(argv)}")
        try:
            # In the terminal's group, as an application expects; with our own signals it may come twice.
            pid = spawn(argv, environment=self._environment, own_group=False)
        except OSError as error:
            self._fail(f"cannot start {argv[0]}: {error.strerror}", 1)
            return
        self._application = Child("application", pid, None, time.monotonic())

    def _on_application_end(self, application: Child) -> None:
        self._application = None
        code = application.reap()
        self._log("INFO", f"subprocess ended with {_ending(code)}")
        if self._stop_signal is not None:
            # It was asked to end: dying of that signal is no failure.
            self._exit_code = max(code, 0)
        elif self._commands and code == 0:
            self._start_next_command()
        elif self._commands:
            self._fail("a command before the last of exec failed", _exit_code_of(code))
        else:
            self._exit_code = _exit_code_of(code)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        self._stop_signal = number
        if self._application is None:
            self._exit_code = 0
            return
        self._log("INFO", f"passing {signal.Signals(number).name} to the subprocess, waiting for it to end")
        self._application.kill(number)

    def _fail(self, message: str, code: int) -> None:
        """Ends litefs with `code`; with `exit-on-error: false` stays, without restarts, until a signal comes."""
        self._log("ERROR", message)
        self._commands = []
        self._gave_up = True
        if self._plan.exit_on_error:
            self._exit_code = code
            return
        self._log("ERROR", "exit-on-error is false: waiting for a signal")
        self._filesystem_due_at = self._node_due_at = None

    # ---- the end ----

    def _wind_up(self) -> None:
        """Has the node step down, detaches the mount, then stops the node process, then the filesystem process."""
        self._step_down()
        self._detach()
        for child in (self._application, self._node, self._filesystem):
            if child is not None:
                self._stop(child)
        # A filesystem process that was still starting may have mounted meanwhile; nothing after an orderly end.
        self._detach()
        self._log("INFO", "stopped")

    def _step_down(self) -> None:
        """Lets another node become primary while this one can still send what that one lacks, and lets the kernel read
        what applications have mapped.

        Crash: a node process that cannot do it, or not in time, leaves a lease that runs out by itself.
        """
        node = self._node
        if node is None or not self._mounted or not node.send(STEP_DOWN, []):
            return
        deadline = time.monotonic() + (STEP_DOWN_LEAVING_S if self._leaves else STEP_DOWN_S)
        while (left_s := deadline - time.monotonic()) > 0:
            control = node.control
            if control is None or node.wait(0):
                return  # it ended
            poller = select.poll()
            poller.register(control, select.POLLIN)
            poller.poll(left_s * 1000)
            if any(json.loads(line)["type"] == "stepped-down" for line in node.receive_lines()):
                return

    def _detach(self) -> None:
        try:
            detach_all(self._plan.mount_dir)
        except OSError as error:
            self._log("ERROR", str(error))

    def _stop(self, child: Child) -> None:
        child.close_control()
        if child.name == "application":
            child.kill(signal.SIGTERM)
        if not child.wait(STOP_BY_CLOSING_S):
            child.kill(signal.SIGTERM)
            if not child.wait(STOP_BY_TERM_S):
                self._log("ERROR", f"the {child.name} process does not stop: killing it")
                self._kill(child)
                child.wait(STOP_BY_KILL_S)
        if child.wait(0):
            child.reap()

    def _kill(self, child: Child) -> None:
        # A filesystem process one of whose threads waits for its own mount survives SIGKILL until the abort.
        if child is self._filesystem and self._connection is not None:
            abort_connection(self._connection)
        child.kill(signal.SIGKILL)

    def _log(self, level: str, message: str) -> None:
        """Writes one line in the shape that `logs.py` gives the other processes, without the cost of `logging`."""
        if level == "DEBUG" and not self._plan.log_debug:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        if self._plan.log_format == "json":
            fields = {"time": stamp} if self._plan.log_timestamp else {}
            line = json.dumps({**fields, "level": level, "process": "supervisor", "msg": message}, ensure_ascii=False)
        else:
            line = f"{stamp + ' ' if self._plan.log_timestamp else ''}{level} supervisor: {message}"
        print(line, file=sys.stderr, flush=True)


def _claim(path: str) -> socket.socket:
    """Keeps the supervisors of other nodes from a directory until the socket is closed, or this process dies.

    The lock on the data directory cannot do that: a hanging filesystem process whose supervisor is dead holds it until
    its mount is aborted, which the next supervisor does. The directory may be a dead mount, so its parent is looked at.

    Raises:
        OSError: it is taken, or its parent cannot be made.
    """
    parent, name = os.path.split(path)
    os.makedirs(parent, exist_ok=True)
    status = os.stat(parent)
    name_bytes = os.fsencode(name)
    if len(name_bytes) > CLAIM_NAME_BYTES_MAX:
        # Without hashlib, which brings OpenSSL with it: this tells apart the few directories of one parent.
        name_bytes = name_bytes[:CLAIM_NAME_BYTES_MAX] + b"~%08x" % zlib.crc32(name_bytes)
    claim = socket.socket(socket.AF_UNIX)
    try:
        # Abstract: nothing of it is left behind.
        claim.bind(b"\0litefs:%d:%d:%b" % (status.st_dev, status.st_ino, name_bytes))
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise OSError(errno.EBUSY, "another LiteFS uses this directory", path) from None
    return claim


def _close_mount_point(mount_dir: str) -> None:
    """Keeps applications that are not root from writing into the directory while nothing is mounted on it.

    They would create a database there that nobody replicates and the next mount hides. An ordinary user must leave it
    open: fusermount3 mounts only where its caller may write.
    """
    if os.geteuid() == 0 and not os.listdir(mount_dir):
        os.chmod(mount_dir, 0o555)  # noqa: S103 -- narrower than it was


def _signal_pipe() -> int:
    """Turns SIGTERM, SIGINT and SIGCHLD into bytes on a pipe. Returns the end to read."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_fd)
    return read_fd


def _received_signals(wake_fd: int) -> bytes:
    try:
        return os.read(wake_fd, 4096)
    except BlockingIOError:
        return b""


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _exit_code_of(code: int) -> int:
    """The exit code that passes on a child's end: a shell's 128 + N for signal N."""
    return 128 - code if code < 0 else code


def main() -> None:
    """Runs the plan whose descriptor is the only argument, and exits with litefs' exit code."""
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        plan = Plan.from_json(file.read())
    sys.exit(Supervisor(plan).run())


if __name__ == "__main__":
    main()
