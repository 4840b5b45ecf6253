"""Several nodes that share a lease in a real Consul."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import await_true
from tests.support.consul import ConsulAgent
from tests.support.litefs_node import LitefsNode
from tests.support.scenario import Session

KEY = "litefs/lease"

NODE = "litefs.cli.node_process"
FILESYSTEM = "litefs.cli.filesystem_process"


class ConsulNode(LitefsNode):
    """A node whose lease is in Consul."""

    def __init__(
        self,
        root: Path,
        agent: ConsulAgent,
        *,
        ttl_s: float = 2.0,
        candidate: bool = True,
        extra: str = "",
        command: list[str] | None = None,
        api: str = "",
        log: str = "",
        data: str = "",
    ) -> None:
        """Makes directories and configuration; starts nothing.

        Args:
            root: an empty directory of this node's own, whose name is the node's.
            agent: where the lease is.
            ttl_s: of the lease.
            candidate: it may become primary.
            extra: YAML lines below `lease:`.
            command: what is started with `mount -config FILE`; this checkout's `litefs` if None.
            api: host and port of its HTTP API; a free port of 127.0.0.1 if empty.
            log: YAML lines below `log:`.
            data: YAML lines below `data:`.
        """
        super().__init__(root, command=command)
        self.name = root.name
        api = api or f"127.0.0.1:{self.port}"
        self.url = f"http://{api}"
        self.config_path.write_text(
            f'fuse:\n  dir: "{self.mount_dir}"\n'
            f'data:\n  dir: "{self.data_dir}"\n{data}'
            f'http:\n  addr: "{api}"\n'
            f"log:\n{log}"
            "lease:\n"
            '  type: "consul"\n'
            f'  hostname: "{root.name}"\n'
            f'  advertise-url: "{self.url}"\n'
            f"  candidate: {str(candidate).lower()}\n"
            "  reconnect-delay: 100ms\n"
            f"{extra}"
            f'  consul:\n    url: "{agent.url}"\n    key: "{KEY}"\n    ttl: {ttl_s:g}s\n    lock-delay: 100ms\n'
        )

    def status(self) -> dict[str, Any]:
        """Returns `GET /status`; an empty one while the node does not answer."""
        return self._get("/status")

    def info(self) -> dict[str, Any]:
        """Returns `GET /info`, which nodes of any make have; an empty one while the node does not answer."""
        return self._get("/info")

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=2) as answer:
                document: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            return {}
        return document

    def post(self, path: str) -> int:
        """Sends an empty POST and returns the status code."""
        request = urllib.request.Request(f"{self.url}{path}", method="POST", data=b"")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    @property
    def is_primary(self) -> bool:
        """Whether it says so."""
        return self.status().get("role") == "primary"


class ConsulCluster:
    """Nodes `a`, `b`, ... on one Consul."""

    def __init__(
        self, root: Path, size: int, *, ttl_s: float = 2.0, programs: dict[int, list[str]] | None = None
    ) -> None:
        """Makes directories and configuration; starts nothing. Args: programs: by number, of nodes of another make."""
        root.mkdir(parents=True, exist_ok=True)
        self.agent = ConsulAgent(root)
        self.nodes = [
            ConsulNode(root / name, self.agent, ttl_s=ttl_s, command=(programs or {}).get(number))
            for number, name in enumerate("abcde"[:size])
        ]
        self._sessions: list[Session] = []

    def start(self) -> None:
        """Starts Consul, then the first node, which becomes primary, then the others."""
        self.agent.start()
        first, *others = self.nodes
        first.start()
        self.await_primary(first)
        for node in others:
            node.start()
        for node in others:
            await_true(lambda node=node: node.status().get("ready"), f"{node.root.name} has caught up")  # type: ignore[misc]

    def stop(self) -> None:
        """Ends everything, Consul last."""
        self.agent.thaw_if_running()
        for session in self._sessions:
            session.close()
        for node in self.nodes:
            node.kill()
        self.agent.stop()

    def sessions(self, stem: str = "t") -> list[Session]:
        """Returns a session on each mount, for the same files."""
        sessions = [Session(node, stem) for node in self.nodes]
        self._sessions += sessions
        return sessions

    def primaries(self) -> list[ConsulNode]:
        """Returns the nodes that say that they are primary."""
        return [node for node in self.nodes if node.is_primary]

    def await_primary(self, *nodes: ConsulNode, timeout_s: float = 30.0) -> ConsulNode:
        """Waits until one of `nodes`, any if none is named, is primary, and returns it."""
        found: list[ConsulNode] = []

        def look() -> bool:
            found[:] = [node for node in nodes or self.nodes if node.is_primary]
            return bool(found)

        await_true(look, "a node is primary", timeout_s=timeout_s)
        return found[0]

    def others(self, node: ConsulNode) -> list[ConsulNode]:
        """Returns all nodes but one."""
        return [other for other in self.nodes if other is not node]


def eventually(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition with a bound far above what it takes."""
    await_true(condition, what, timeout_s=40.0)


def opened(cluster: ConsulCluster, request: pytest.FixtureRequest) -> Iterator[ConsulCluster]:
    """For fixtures: a running cluster, whose logs are shown where a test fails."""
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        for node in cluster.nodes:
            request.node.add_report_section("teardown", f"log of {node.root.name}", node.log_text()[-20000:])
