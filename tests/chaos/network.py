"""Network namespaces for the members of a cluster, joined by a bridge; links that can be cut in every way.

Strategy: the program that makes the network moves into the namespace of the bridge, so that it reaches everybody
whatever is cut. Cuts of single directions are `blackhole` routes: what one sends to the other is gone, so the other
sees nothing but silence. Taking a member off the bridge drops all its packets.
"""

import os
import subprocess
from itertools import count
from types import TracebackType
from typing import Self

_NETWORK = "10.88.0"
_numbers = count()


class Network:
    """Members by name, each in a namespace with one address."""

    def __init__(self, names: list[str]) -> None:
        """Makes everything; `close` removes it."""
        self._prefix = f"lfs{os.getpid()}n{next(_numbers)}"
        self._names = names
        self._cuts: set[tuple[str, str]] = set()
        self._isolated: set[str] = set()
        self.bridge = f"{self._prefix}-bridge"
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        _ip("netns", "add", self.bridge)
        _ip("-n", self.bridge, "link", "set", "lo", "up")
        # With an address of its own: else it bears that of a port, and nobody finds us for a while when the port goes.
        _ip("-n", self.bridge, "link", "add", "name", "bridge", "address", "02:00:00:00:00:fe", "type", "bridge")
        _ip("-n", self.bridge, "addr", "add", f"{_NETWORK}.254/24", "dev", "bridge")
        _ip("-n", self.bridge, "link", "set", "bridge", "up")
        for name in self._names:
            namespace = self.namespace(name)
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip(
                "-n",
                self.bridge,
                "link",
                "add",
                "name",
                name,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                namespace,
            )
            _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
            _ip("-n", self.bridge, "link", "set", "dev", name, "master", "bridge", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the namespaces, and with them all links."""
        for namespace in (*map(self.namespace, self._names), self.bridge):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def namespace(self, name: str) -> str:
        """Returns the name of a member's namespace."""
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        """Returns a member's address."""
        return f"{_NETWORK}.{self._names.index(name) + 1}"

    def command(self, name: str) -> list[str]:
        """Returns what goes before a command that shall run as a member."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}"]

    def cut(self, source: str, target: str) -> None:
        """What `source` sends to `target` is lost from now on."""
        if (source, target) not in self._cuts:
            self._cuts.add((source, target))
            _ip("-n", self.namespace(source), "route", "add", "blackhole", f"{self.address(target)}/32")

    def isolate(self, name: str) -> None:
        """All packets from and to a member are lost from now on."""
        self._isolated.add(name)
        _ip("-n", self.bridge, "link", "set", "dev", name, "nomaster")

    def heal(self) -> None:
        """Everybody reaches everybody again."""
        for source, target in self._cuts:
            _ip("-n", self.namespace(source), "route", "del", "blackhole", f"{self.address(target)}/32")
        for name in self._isolated:
            _ip("-n", self.bridge, "link", "set", "dev", name, "master", "bridge")
        self._cuts.clear()
        self._isolated.clear()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
