"""Three nodes and a Consul, each in a network namespace of its own, with clients on every node.

A node has its data directory on a disk of its own, and a wall clock of its own (`machine.py`).
"""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from base64 import b64decode
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.history import Read, Tenure, Write
from tests.chaos.machine import Disk, WallClock
from tests.chaos.network import Network
from tests.support import children
from tests.support.consul import ConsulAgent
from tests.support.consul_cluster import KEY, ConsulNode
from tests.support.litefs_node import own_command

NODES = ("a", "b", "c")
CONSUL = "consul"
DATABASE = "log.db"
TTL_S = 2.0
WATCH_WAIT_S = 2

SCHEMA = "CREATE TABLE log (id INTEGER PRIMARY KEY, token TEXT UNIQUE NOT NULL, parent TEXT NOT NULL)"


class Node(ConsulNode):
    """A node in its namespace, with one writer and one reader as its applications."""

    def __init__(self, root: Path, name: str, network: Network, agent: ConsulAgent) -> None:
        """Makes directories and configuration; starts nothing."""
        super().__init__(
            root / name,
            agent,
            ttl_s=TTL_S,
            command=[*network.command(name), *own_command()],
            api=f"{network.address(name)}:20202",
            log="  timestamp: true\n",
            data="  segment-size: 1MB\n",  # so that a full disk is met by logs that need their next one
        )
        self.clock = WallClock(self.root)
        self.environment = self.clock.environment
        self.disk = Disk(self.data_dir)

    @property
    def database(self) -> Path:
        """The database that all clients use."""
        return self.mount_dir / DATABASE

    def ask_to_lead(self) -> str:
        """Asks for its promotion. Returns how that ended, for the report."""
        try:
            return str(self.post("/promote"))
        except (OSError, ValueError) as error:
            return str(error)

    def rows(self) -> list[tuple[str, str]]:
        """Returns (token, parent) of all rows, in their order, after SQLite has checked the database."""
        program = (
            "import json, sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True, timeout=10);"
            "assert c.execute('PRAGMA integrity_check').fetchall() == [('ok',)];"
            "print(json.dumps(c.execute('SELECT token, parent FROM log ORDER BY id').fetchall()))"
        )
        done = children.run([sys.executable, "-c", program, self.database], free=self.free)
        assert done.code == 0, done.err
        return [(token, parent) for token, parent in json.loads(done.out)]


class Client:
    """A running `client.py`; what it prints is kept in a file."""

    def __init__(self, kind: str, node: Node, directory: Path) -> None:
        """Starts it."""
        self._node = node
        self.name = f"{node.name}-{kind}"
        self._path = directory / f"{self.name}.jsonl"
        self._counted_bytes = self._acknowledged_n = 0
        self._kind = kind
        self.bus_error_n = 0
        self._start()

    def _start(self) -> None:
        # Its rows must be nobody else's, and the one that died may have read what is taken back since.
        name = f"{self.name}-{self.bus_error_n}" if self.bus_error_n else self.name
        program = Path(__file__).with_name("client.py")
        with self._path.open("ab") as out, self._path.with_suffix(".err").open("ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, program, self._kind, self._node.name, name, self._node.database],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    def revive(self) -> None:
        """Starts it again if it died of SIGBUS, which can happen when a node is killed (docs/limits.md)."""
        code = self._process.poll()
        if code is not None:
            assert code == -signal.SIGBUS, f"{self.name} ended with {code}"
            self.bus_error_n += 1
            self._start()

    def stop(self) -> None:
        """Lets it end its transaction; one that hangs in a dead mount is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            children.end(self._process, free=self._node.free)
            raise
        assert code == 0, f"{self.name} ended with {code}"

    def state(self) -> str:
        """Returns whether it lives, and where in the kernel its threads are: for a report when nothing goes on."""
        code = self._process.poll()
        if code is not None:
            return f"ended with {code}"
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return "; ".join(" < ".join((task / "stack").read_text().split("\n")[:4]) for task in tasks)

    def acknowledged_n(self) -> int:
        """Returns how many rows were acknowledged so far."""
        with self._path.open("rb") as file:
            file.seek(self._counted_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._counted_bytes += len(whole) + len(newline)
        self._acknowledged_n += whole.count(b'"outcome": "ok"')
        return self._acknowledged_n

    def records(self) -> list[dict[str, Any]]:
        """Returns what it has printed so far."""
        text = self._path.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class LeaseWatch:
    """Notes who holds the lease, from a place that no fault cuts off."""

    def __init__(self, agent: ConsulAgent) -> None:
        """Starts watching, on a thread."""
        self._agent = agent
        self._ending = threading.Event()
        self.tenures: list[Tenure] = []
        self._thread = threading.Thread(target=self._run, name="lease-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it. What it had not seen nobody can be judged by, so it must have lived."""
        assert self._thread.is_alive(), "nobody has watched the lease"
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        index = "0"
        while not self._ending.is_set():
            query = f"{self._agent.url}/v1/kv/{KEY}?index={index}&wait={WATCH_WAIT_S}s"
            try:
                with urllib.request.urlopen(query, timeout=60) as answer:
                    (entry,) = json.load(answer)
                    index = answer.headers["X-Consul-Index"]
            except urllib.error.HTTPError as error:  # 404: nobody has ever held it
                index = error.headers["X-Consul-Index"]
                continue
            except (OSError, ValueError, http.client.HTTPException):
                self._ending.wait(0.1)
                continue
            holder = json.loads(b64decode(entry["Value"] or b"")).get("hostname", "") if entry.get("Session") else ""
            if not self.tenures or self.tenures[-1].holder != holder:
                self.tenures.append(Tenure(holder=holder, seen_ns=time.monotonic_ns()))


class ChaosCluster:
    """Everything that runs during one experiment."""

    def __init__(self, root: Path, network: Network, *, journal_mode: str) -> None:
        """Starts Consul, the nodes, and their clients on an empty database."""
        self._root = root
        self.network = network
        self.agent = ConsulAgent(root, address=network.address(CONSUL), prefix=network.command(CONSUL))
        self.nodes: dict[str, Node] = {}
        self._clients: list[Client] = []
        self._records: list[dict[str, Any]] = []
        self.bus_error_n = 0
        self._watch: LeaseWatch | None = None
        try:
            self._start(root, journal_mode)
        except BaseException:
            self.kill()
            raise

    def _start(self, root: Path, journal_mode: str) -> None:
        self.agent.start()
        self._watch = LeaseWatch(self.agent)
        for name in NODES:
            self.nodes[name] = Node(root, name, self.network, self.agent)
            self.nodes[name].start()
        self.await_true(lambda: self.primary() is not None, "a primary")
        primary = self.primary()
        assert primary is not None
        statement = f"PRAGMA journal_mode = {journal_mode}; {SCHEMA};"
        done = children.run(["sqlite3", primary.database, statement], free=primary.free)
        assert done.code == 0, done.err
        # A primary that is killed before anybody follows it takes the table along.
        self.await_true(lambda: all(node.status().get("databases") for node in self.nodes.values()), "the table")
        for node in self.nodes.values():
            self._clients += [Client("write", node, root), Client("read", node, root)]

    def primary(self) -> Node | None:
        """Returns a node that says that it is primary."""
        return next((node for node in self.nodes.values() if node.is_primary), None)

    def await_true(self, condition: Any, what: str, *, timeout_s: float = 60.0) -> None:
        """Waits for something that the cluster has to come to by itself.

        Raises:
            AssertionError: it did not, with the nodes' states.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            for client in self._clients:
                client.revive()
            if time.monotonic() > deadline:
                states: dict[str, object] = {name: node.status() for name, node in self.nodes.items()}
                states |= {client.name: client.state() for client in self._clients}
                raise AssertionError(f"not within {timeout_s:.0f} s: {what}\n{json.dumps(states, indent=1)}")
            time.sleep(0.05)

    def acknowledged_n(self) -> int:
        """Returns how many rows were acknowledged so far."""
        return sum(client.acknowledged_n() for client in self._clients)

    def settle(self) -> None:
        """Ends the clients and waits until all nodes show the same position."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.stop()
        self.bus_error_n = sum(client.bus_error_n for client in clients)
        self._records = [record for client in clients for record in client.records()]
        self.await_true(self._agree, "all nodes show the same position")

    def _agree(self) -> bool:
        # `cat` in a child of its own: what this program opens in a mount that hangs, it waits for.
        positions = {node.read(f"{DATABASE}-pos").strip() for node in self.nodes.values()}
        return len(positions) == 1 and positions != {""}

    def writes(self) -> list[Write]:
        """Returns every transaction of the writers, after `settle`."""
        fields = ("node", "token", "parent", "begun_ns", "ended_ns", "outcome")
        return [Write(**{name: record[name] for name in fields}) for record in self._records if "token" in record]

    def reads(self) -> list[Read]:
        """Returns every successful transaction of the readers, after `settle`."""
        return [Read(**record) for record in self._records if "head" in record]

    def tenures(self) -> list[Tenure]:
        """Returns every change of the lease."""
        assert self._watch is not None
        return self._watch.tenures

    def keep_history(self, final: dict[str, list[tuple[str, str]]]) -> None:
        """Writes everything that the checker is given into `history.json`, beside the logs of the nodes."""
        history = {"tenures": [asdict(tenure) for tenure in self.tenures()], "final": final, "records": self._records}
        (self._root / "history.json").write_text(json.dumps(history))

    def kill(self) -> None:
        """Ends everything, whatever state it is in."""
        self.network.heal()
        for node in self.nodes.values():
            node.free()
        for client in self._clients:
            try:
                client.stop()
            except (AssertionError, subprocess.TimeoutExpired):
                continue
        for node in self.nodes.values():
            node.kill()
        self.agent.thaw_if_running()
        if self._watch is not None:
            self._watch.stop()
        self.agent.stop()
        for node in self.nodes.values():
            node.disk.detach()
