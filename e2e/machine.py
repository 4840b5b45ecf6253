"""The first process of a node's namespaces, `machine NODE`: what an init is to a machine.

Strategy: it runs as PID 1 of a PID namespace, with mount and network namespaces of its own. Killing it kills every
process of the node, containers included, and with the last process go the namespaces and what is in them: mounts,
interfaces, packet filters. Nothing has to be undone one by one, whatever died before.

Guarantees: nothing outside changes but `layout.STATE`, `layout.KUBELET_ROOT` (an empty directory) and cgroups. The
kernel settings that a kubelet changes for the whole machine are hidden behind files.

Assumes: `cluster` started it with `unshare` and brings the link.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from e2e import components
from e2e.commands import run, succeeds, wait_until
from e2e.layout import KUBELET_ROOT, NODE1, NODE2, Node

_RESTART_PAUSE_S = 0.5
_LINK_TIMEOUT_S = 30.0
_KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def main(name: str) -> None:
    """Never returns: it is killed."""
    node = next(node for node in (NODE1, NODE2) if node.name == name)
    _say_pid(node)
    _detach_foreign_mounts()
    _mount_own_directories(node)
    _hide_kernel_settings()
    _configure_network(node)
    _supervise(node, components.commands(node))


def _say_pid(node: Node) -> None:
    """The host's /proc is still mounted here: it says which process we are there."""
    pid = os.readlink("/proc/self")
    # Crash: whoever takes us down needs the whole number or no file.
    fresh = node.init_pid.with_suffix(".new")
    fresh.write_text(pid)
    fresh.rename(node.init_pid)


def _detach_foreign_mounts() -> None:
    """Mounts of the host were copied with the namespace: whoever serves or unmounts them there must not be held up."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path, (kind, *_) = Path(line.split()[4]), line.partition(" - ")[2].split()
        if kind.startswith(("fuse.", "nsfs")) or path.is_relative_to(tempfile.gettempdir()):
            # Not there any more if it was below one that is detached already.
            succeeds(["umount", "--lazy", path])


def _mount_own_directories(node: Node) -> None:
    run(["mount", "-t", "proc", "proc", "/proc"])
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    for source, target in ((node.state / "kubelet", KUBELET_ROOT), (node.logs, Path("/var/log"))):
        source.mkdir(exist_ok=True)
        run(["mount", "--bind", source, target])
    # What a sidecar mounts in a volume must reach the kubelet, and from there the other containers of the pod.
    run(["mount", "--make-rshared", KUBELET_ROOT])


def _hide_kernel_settings() -> None:
    for name in _KERNEL_SETTINGS:
        setting = Path("/proc/sys") / name
        stand_in = Path("/run/kernel") / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(setting.read_text())
        run(["mount", "--bind", stand_in, setting])


def _configure_network(node: Node) -> None:
    wait_until("the link", lambda: succeeds(["ip", "link", "show", "eth0"]), timeout_s=_LINK_TIMEOUT_S)
    for command in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{node.link_address}/30", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "add", "cni0", "type", "bridge"],
        ["addr", "add", f"{node.address}/24", "dev", "cni0"],
        ["link", "set", "cni0", "up"],
        ["route", "add", "default", "via", node.gateway, "src", node.address],
    ):
        run(["ip", *command])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _supervise(node: Node, commands: dict[str, list[str]]) -> None:
    """Keeps the components running, and reaps what containers leave to PID 1."""
    running = {_start(node, name, command): name for name, command in commands.items()}
    while True:
        pid, _ = os.wait()
        name = running.pop(pid, None)
        if name is not None:
            time.sleep(_RESTART_PAUSE_S)
            running[_start(node, name, commands[name])] = name


def _start(node: Node, name: str, command: list[str]) -> int:
    with (node.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=node.state
        )
    # `os.wait` reaps it: Popen must not try.
    process.returncode = 0
    return process.pid


if __name__ == "__main__":
    main(sys.argv[1])
