"""Several nodes that share a lease in a real Consul, and a writer that finds the primary by itself."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.cluster import await_true
from tests.support.consul import ConsulAgent
from tests.support.litefs_node import LitefsNode
from tests.support.scenario import Connection, Session
from tests.support.sql_client import SqlError

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
    ) -> None:
        """Makes directories and configuration; starts nothing. Args: extra: YAML lines below `lease:`."""
        super().__init__(root, command=command)
        self.config_path.write_text(
            f'fuse:\n  dir: "{self.mount_dir}"\n'
            f'data:\n  dir: "{self.data_dir}"\n'
            f'http:\n  addr: "127.0.0.1:{self.port}"\n'
            "lease:\n"
            '  type: "consul"\n'
            f'  hostname: "{root.name}"\n'
            f'  advertise-url: "http://127.0.0.1:{self.port}"\n'
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
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                document: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            return {}
        return document

    def post(self, path: str) -> int:
        """Sends an empty POST and returns the status code."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method="POST", data=b"")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    @property
    def is_primary(self) -> bool:
        """Whether it says so."""
        return self.status().get("role") == "primary"


class Writer:
    """An application that inserts numbered rows wherever it is allowed, and knows which were acknowledged."""

    def __init__(self, sessions: list[Session]) -> None:
        """Args: sessions: one per node, on the same file names."""
        self._processes = [(session, session.process()) for session in sessions]
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.gaps_s: list[float] = []
        """Between one acknowledged row and the next, when the node in between changed."""
        self.refusals: dict[int, str] = {}
        """What each node said last when it refused."""
        self._avoided: set[int] = set()
        self._turn = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; raises what the writer met other than errors of SQLite."""
        self._stopping.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def avoid(self, number: int) -> None:
        """Uses a node no more, and returns when that is so.

        An application that opens a database in WAL mode while the mount goes may die of SIGBUS: it maps a file.
        """
        self._avoided.add(number)
        eventually(lambda: self._turn != number or not self._thread.is_alive(), "the writer is elsewhere")

    def use_all(self) -> None:
        """Uses all nodes again."""
        self._avoided.clear()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # noqa: BLE001 - it is raised by `stop`
            self.failure = error

    def _write(self) -> None:
        row, last, changed = 0, time.monotonic(), False
        connections: dict[int, Connection] = {}
        while not self._stopping.is_set():
            turn = self._turn
            row += 1  # never the same again: what was refused may be there, if the process died that refused it
            try:
                self._insert(turn, row, connections)
            except SqlError as error:
                self.refused.append(row)
                self.refusals[turn] = error.name
                old = connections.pop(turn, None)  # whoever could not write must open the database again
                if old is not None:
                    old.close()
                self._turn = (turn + 1) % len(self._processes)
                changed = True
                self._stopping.wait(0.0005)
                continue
            now = time.monotonic()
            if changed:
                self.gaps_s.append(now - last)
            changed, last = False, now
            self.acknowledged.append(row)

    def _insert(self, turn: int, row: int, connections: dict[int, Connection]) -> None:
        if turn in self._avoided:
            raise SqlError("AVOIDED", "the test stops this node")
        if turn not in connections:
            session, process = self._processes[turn]
            connections[turn] = session.connect(process=process, busy_timeout_ms=0)
        connections[turn].unrecorded("INSERT INTO t VALUES (?)", row)


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
