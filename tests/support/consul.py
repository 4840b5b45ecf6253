"""A real Consul for tests: one agent in development mode, with sessions that may be short.

The program is what `scripts/consul` finds or has built. Sessions expire at twice their TTL.
"""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.filesystem_node import REPOSITORY
from tests.support.litefs_node import free_ports

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02


def find_consul() -> Path | None:
    """Returns the program; None if this machine has none."""
    built = subprocess.run([REPOSITORY / "scripts" / "consul", "--where"], capture_output=True, text=True, check=True)
    path = Path(built.stdout.strip())
    return path if path.exists() else None


class ConsulAgent:
    """One agent, on ports of loopback or of another address.

    Attributes:
        url: of its HTTP API.
        configuration: more of it, in Consul's language.
        https_port: where it also listens, if the configuration says so.
        token: of the operator; "" where none is needed.
    """

    def __init__(self, root: Path, *, address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        """Args: root: an empty directory for its log; prefix: of the command, to run it in another namespace."""
        program = find_consul()
        if program is None:
            pytest.skip("there is no consul on the PATH, and scripts/consul was not run")
        self._command = [*prefix, str(program)]
        self._address = address
        self._log_path = root / "consul.log"
        names = ("http", "server", "serf-lan", "serf-wan")
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.configuration: list[str] = []
        self.https_port = 0
        self.token = ""
        self.url = f"http://{address}:{self._ports['http']}"

    def start(self) -> None:
        """Starts it, empty, and returns when it leads itself."""
        ports = [word for name, port in self._ports.items() for word in (f"-{name}-port", str(port))]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._command, "agent", "-dev", "-bind", self._address, "-client", self._address,
                    "-log-level", "warn", *ports, "-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1",
                    "-hcl", 'session_ttl_min = "500ms"', "-hcl", "connect { enabled = false }",
                    *(word for text in self.configuration for word in ("-hcl", text)),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._has_leader():
            assert self._process.poll() is None, f"consul ended\n{self._log_path.read_text()[-3000:]}"
            assert time.monotonic() < deadline, "consul has no leader"
            time.sleep(_POLL_S)

    def _has_leader(self) -> bool:
        try:
            # A write is answered only when sessions and keys can be kept.
            self.request("PUT", "/v1/kv/ready", b"1")
        except OSError:
            return False
        return True

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Sends one request, as an operator would. Raises OSError when it is not answered with success."""
        request = urllib.request.Request(self.url + path, data=body or None, method=method)
        if self.token:
            request.add_header("X-Consul-Token", self.token)
        with urllib.request.urlopen(request, timeout=5) as answer:
            data: bytes = answer.read()
        return data

    def value(self, key: str) -> bytes:
        """Returns the value of a key; b"" if there is none."""
        try:
            return self.request("GET", f"/v1/kv/{key}?raw")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return b""
            raise

    def freeze(self) -> None:
        """Stops it answering, while its connections stay open. Returns when all its threads stand still."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        stats = f"/proc/{self._process.pid}/task"
        while any(_state(Path(stats, thread, "stat")) != "T" for thread in os.listdir(stats)):
            time.sleep(0.001)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def thaw_if_running(self) -> None:
        """The same, where it may have been stopped."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()

    def stop(self) -> None:
        """Kills it; what it knew is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it is not running"
        os.kill(self._process.pid, number)


def _state(stat: Path) -> str:
    """Returns the state of a thread, the field behind its name in parentheses."""
    return stat.read_text().rpartition(")")[2].split()[0]
