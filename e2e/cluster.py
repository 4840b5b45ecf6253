"""Brings the cluster up and takes it down, from outside of the namespaces of its nodes.

One per machine: its state is in `layout.STATE`. `down` may be called at any time, after any death, and again.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from e2e import components, pki
from e2e.commands import run, succeeds, wait_until
from e2e.errors import SetupError
from e2e.layout import (
    KUBECONFIG,
    KUBELET_ROOT,
    LINK,
    LOCK,
    NODE1,
    NODE2,
    POD_NETWORK,
    PROGRAMS_LINK,
    SERVICE_NETWORK,
    STATE,
    Node,
)
from e2e.tools import REPOSITORY, Tools

START_TIMEOUT_S = 180.0
"""For each step of the start; on an idle machine all of them take ten seconds."""

_END_TIMEOUT_S = 30.0
_FUSE_CONNECTIONS = Path("/sys/fs/fuse/connections")
_CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def claimed() -> Iterator[None]:
    """Keeps the one cluster of this machine for this process: no other one may start or take it down meanwhile.

    Raises:
        SetupError: another process has it; nothing was done.
    """
    # Crash: the kernel gives the lock back, whatever this process died of.
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SetupError(f"process {file.read().strip()} uses the cluster: wait for its end, or end it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def up(tools: Tools, images: list[Path]) -> None:
    """Starts a new cluster, and returns when pods can be created.

    Args:
        images: archives that its container runtime imports.

    Raises:
        SetupError: not root, or no /dev/fuse.
        E2eError: a step failed; the logs of `NODE1` say why. What was started is there still.
    """
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise SetupError("a cluster needs root and /dev/fuse; or set E2E_KUBECONFIG to one that exists")
    down()
    pki.create(STATE / "pki")
    PROGRAMS_LINK.symlink_to(tools.programs)
    KUBELET_ROOT.mkdir(exist_ok=True)
    start_node(NODE1, _connect, images)
    kubectl: list[str | Path] = [tools.programs / "kubectl", "--kubeconfig", KUBECONFIG]
    has_account = partial(succeeds, [*kubectl, "get", "serviceaccount", "default"])
    wait_until("the account of pods", has_account, timeout_s=START_TIMEOUT_S)
    objects = {"apiVersion": "v1", "kind": "List", "items": components.storage()}
    run([*kubectl, "create", "-f", "-"], stdin=json.dumps(objects))


def start_node(node: Node, connect: Callable[[], None], images: list[Path]) -> None:
    """Starts a node, for the first time or again, and returns when it is Ready.

    Args:
        connect: makes its link, when it has a network namespace.
        images: archives that its container runtime imports.
    """
    node.logs.mkdir(parents=True, exist_ok=True)
    pki.create_node(STATE / "pki", node)
    components.write_configuration(node)
    for controller in _cgroup_parents():
        _create_cgroup(controller, node)
    _start_init(node)
    connect()
    wait_until("containerd", lambda: succeeds([*_ctr(node), "version"]), timeout_s=START_TIMEOUT_S)
    load(images, node)
    kubectl: list[str | Path] = [PROGRAMS_LINK / "kubectl", "--kubeconfig", KUBECONFIG]
    for what, words in {
        "the API server": ["get", "--raw", "/readyz"],
        "the node": ["wait", "--for=condition=Ready", f"node/{node.name}", "--timeout=1s"],
    }.items():
        wait_until(what, partial(succeeds, [*kubectl, *words]), timeout_s=START_TIMEOUT_S)


def load(images: list[Path], node: Node = NODE1) -> None:
    """Gives a node's container runtime the images of some archives; pods that run keep theirs."""
    for image in images:
        run([*_ctr(node), "-n", "k8s.io", "images", "import", image], timeout_s=START_TIMEOUT_S)


def _ctr(node: Node) -> list[str | Path]:
    return ["ctr", "-a", node.containerd_socket]


def down() -> None:
    """Takes down whatever is there of a cluster, and returns when nothing is.

    Raises:
        NotYetError: a process or a cgroup is still there.
    """
    for node in (NODE2, NODE1):
        power_off(node)
    succeeds(["ip", "link", "delete", LINK])
    remove_cgroups(NODE1)
    if STATE.exists():
        shutil.rmtree(STATE)
        # Ours if it is empty: `up` made it for the kubelet to be mounted on.
        if KUBELET_ROOT.exists() and not any(KUBELET_ROOT.iterdir()):
            KUBELET_ROOT.rmdir()


def power_off(node: Node) -> None:
    """Kills every process of a node, if it runs, and returns when all are gone.

    Raises:
        NotYetError: a process is still there.
    """
    init = init_pid(node)
    if init is not None:
        members, mounts = list(_processes_beside(init)), _fuse_mounts(init)
        os.kill(init, signal.SIGKILL)
        _abort(mounts)
        wait_until("the end of all processes", lambda: not any(map(_is_alive, members)), timeout_s=_END_TIMEOUT_S)


def remove_cgroups(node: Node) -> None:
    """Removes what the pods of a node ran in, after its end.

    Raises:
        NotYetError: a cgroup is still there.
    """
    for controller in _cgroup_parents():
        group = controller / node.cgroup
        wait_until(f"the removal of {group}", partial(_remove_cgroup, group), timeout_s=_END_TIMEOUT_S)


def init_pid(node: Node = NODE1) -> int | None:
    """Returns the PID of a node's init, None if there is none."""
    try:
        pid = int(node.init_pid.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"e2e.machine" in words else None


def fuse_mounts() -> list[str]:
    """Returns the FUSE mounts of the first node, by their paths: what a pod leaves there blocks its removal."""
    init = init_pid()
    return [] if init is None else [path for _, path in _fuse_mounts(init)]


def processes(words: str, *, pod_uid: str = "") -> list[int]:
    """Returns the PIDs of the processes of the first node, or of a pod there, whose command line contains `words`."""
    init = init_pid()
    found = []
    for pid in [] if init is None else _processes_beside(init):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if words in command and pod_uid in cgroup:
            found.append(pid)
    return found


def below_mount(pod_uid: str, volume: str, directory: str) -> list[str]:
    """Returns what an emptyDir has in a directory, below what is mounted there."""
    volume_path = KUBELET_ROOT / "pods" / pod_uid / "volumes" / "kubernetes.io~empty-dir" / volume
    # A bind mount that is not recursive shows the volume alone.
    script = 'mount -t tmpfs tmpfs /mnt && mkdir /mnt/volume && mount --bind "$1" /mnt/volume && ls -A "/mnt/volume/$2"'
    own_mounts = ["nsenter", f"--mount=/proc/{init_pid()}/ns/mnt", "unshare", "--mount", "--propagation", "private"]
    return run([*own_mounts, "sh", "-c", script, "sh", volume_path, directory]).split()


def _start_init(node: Node) -> None:
    namespaces = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork"]
    path = f"{PROGRAMS_LINK}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    with (node.logs / "init.log").open("ab") as log:
        # It outlives this process, which therefore must not be its parent.
        subprocess.run(
            ["setsid", "--fork", "unshare", *namespaces, sys.executable, "-m", "e2e.machine", node.name],
            cwd=REPOSITORY,
            env={"PATH": path, "PYTHONPATH": str(REPOSITORY), "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
        )
    wait_until("the node's init", lambda: init_pid(node) is not None, timeout_s=START_TIMEOUT_S)


def _connect() -> None:
    """Makes pods and services reachable from the host, and the host from pods."""
    run(["ip", "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", str(init_pid())])
    run(["ip", "addr", "add", f"{NODE1.gateway}/30", "dev", LINK])
    run(["ip", "link", "set", LINK, "up"])
    for network in (POD_NETWORK, SERVICE_NETWORK):
        run(["ip", "route", "replace", network, "via", NODE1.link_address])


def _processes_beside(init: int) -> Iterator[int]:
    """The processes of its PID namespace and of those below it are its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents[int(entry.name)] = _parent_of(entry)
    known = {init}
    while True:
        more = {pid for pid, parent in parents.items() if parent in known} - known
        if not more:
            break
        known |= more
    yield from sorted(known)


def _parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    """A zombie is none: who has to reap it may be late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _fuse_mounts(init: int) -> list[tuple[str, str]]:
    """Returns the connection number and the path of each FUSE mount."""
    found = []
    for line in Path(f"/proc/{init}/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.startswith("fuse"):
            words = fields.split()
            found.append((words[2].partition(":")[2], words[4]))
    return found


def _abort(mounts: list[tuple[str, str]]) -> None:
    """So that no process waits for a server that is dying: it would not be killed before."""
    for number, path in mounts:
        # A mount of the host is visible in the cluster as well, and is not ours.
        if Path(path).is_relative_to(KUBELET_ROOT):
            with suppress(OSError):  # its server is gone already, and took it along
                (_FUSE_CONNECTIONS / number / "abort").write_text("1")


def _cgroup_parents() -> list[Path]:
    """Where the cluster's cgroup is: below each controller, or in the one hierarchy of version 2."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if path.is_dir()]


def _create_cgroup(controller: Path, node: Node) -> None:
    group = controller / node.cgroup
    group.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())


def _remove_cgroup(group: Path) -> bool:
    """Whether it is gone; a cgroup that lost its last process just now may refuse for a moment."""
    for directory, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            time.sleep(0)
    return not group.exists()
