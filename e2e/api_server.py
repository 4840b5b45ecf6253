"""An API server and its etcd by themselves, on loopback: no controllers, no kubelet, no pods that run.

For what needs neither, as the operator's benchmark and a history that etcd forgets.
"""

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e import pki
from e2e.commands import succeeds, wait_until
from e2e.tools import Tools

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """One that answers.

    Attributes:
        port: of the API server.
        kubeconfig: of an administrator.
        etcd_url: where etcd answers, without a key.
    """

    port: int
    kubeconfig: Path
    etcd_url: str


@contextlib.contextmanager
def running_api_server(root: Path, tools: Tools, *flags: str) -> Iterator[ApiServer]:
    """Runs both until the context ends. Args: root: a directory for keys, data and logs; flags: of the API server."""
    etcd_port, peer_port, api_port = free_port(), free_port(), free_port()
    keys = root / "pki"
    pki.create(keys)
    kubeconfig = keys / "admin.conf"
    kubeconfig.write_text(re.sub(r"https://[^\"]+", f"https://127.0.0.1:{api_port}", kubeconfig.read_text()))
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = [
        *("etcd", "--data-dir", str(root / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
        *("--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer_port}"),
    ]
    api_server = [
        *(str(tools.programs / "kube-apiserver"), f"--etcd-servers={etcd_url}", "--bind-address=127.0.0.1"),
        *(f"--secure-port={api_port}", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"),
        *("--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC", "--allow-privileged=true"),
        *(f"--tls-cert-file={keys}/apiserver.crt", f"--tls-private-key-file={keys}/apiserver.key"),
        *(f"--client-ca-file={keys}/ca.crt", f"--service-account-key-file={keys}/sa.pub"),
        *(f"--service-account-signing-key-file={keys}/sa.key", "--service-account-issuer=https://loopback"),
        *("--disable-admission-plugins=ServiceAccount", *flags),
    ]
    with (
        running_process(etcd, root / "etcd.log"),
        running_process(api_server, root / "kube-apiserver.log"),
    ):
        is_ready: list[str | Path] = [
            tools.programs / "kubectl",
            "--kubeconfig",
            kubeconfig,
            "get",
            "namespace",
            "default",
        ]
        wait_until("the API server", lambda: succeeds(is_ready), timeout_s=_START_TIMEOUT_S)
        yield ApiServer(port=api_port, kubeconfig=kubeconfig, etcd_url=etcd_url)


@contextlib.contextmanager
def running_process(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a program with its output in a file, and ends it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Returns a port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
