"""Drives a cluster by `kubectl`, as people do; every call ends in its time."""

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from e2e.commands import run, wait_until
from e2e.errors import CommandError

READY_TIMEOUT_S = 180.0
GONE_TIMEOUT_S = 120.0
"""A pod that is stuck stays for ever: the test fails, and its description says why."""

_LOG_LINES = 100


class Kubectl:
    """One namespace of one cluster."""

    def __init__(self, program: Path | str, kubeconfig: Path, namespace: str) -> None:
        self._command = [program, "--kubeconfig", kubeconfig, "--namespace", namespace]
        self.namespace = namespace

    def __call__(self, *words: str, stdin: str = "", timeout_s: float = 60.0, with_errors: bool = False) -> str:
        """Returns what one command printed; see `run`.

        Raises:
            CommandError: it failed, or did not end in its time.
        """
        return run([*self._command, *words], stdin=stdin, timeout_s=timeout_s, with_errors=with_errors)

    def create_namespace(self) -> None:
        """Creates the namespace, and returns when pods can be created in it."""
        self("create", "namespace", self.namespace)

        def has_account() -> bool:
            return "default" in self("get", "serviceaccounts", "-o", "name")

        wait_until("the account of pods", has_account, timeout_s=GONE_TIMEOUT_S)

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Creates or changes objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self("apply", "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Returns one object."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def execute(self, pod: str, container: str, command: Sequence[str], *, stdin: str = "") -> str:
        """Returns what a command printed in a container."""
        interactive = ["--stdin"] if stdin else []
        return self("exec", pod, "-c", container, *interactive, "--", *command, stdin=stdin)

    def log(self, pod: str, container: str) -> str:
        """Returns what a container has written; "" if it has not begun."""
        try:
            return self("logs", pod, "-c", container)
        except CommandError:
            return ""

    def wait_ready(self, *pods: str) -> float:
        """Waits for pods, and returns for how many seconds."""

        def are_ready() -> bool:
            return all(self._is_ready(pod) for pod in pods)

        return wait_until(f"{', '.join(pods)} ready", are_ready, timeout_s=READY_TIMEOUT_S)

    def restarts(self, pod: str) -> dict[str, int]:
        """Returns how often each container was started again."""
        status = self.get("pod", pod)["status"]
        containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        return {container["name"]: container["restartCount"] for container in containers}

    @contextmanager
    def watching(self, kind: str, selector: str) -> Iterator[list[dict[str, Any]]]:
        """Yields a list to which every state of some objects is added, until the end of the block."""
        states: list[dict[str, Any]] = []
        with self.running("get", kind, "--selector", selector, "--watch", "-o", "json") as output:
            reader = threading.Thread(target=_read_states, args=(output, states), daemon=True)
            reader.start()
            wait_until(f"the first state of {kind}", lambda: bool(states), timeout_s=READY_TIMEOUT_S)
            yield states
        reader.join()

    @contextmanager
    def running(self, *words: str) -> Iterator[IO[str]]:
        """Yields the output of a command that runs until the end of the block."""
        command = [str(word) for word in (*self._command, *words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()

    def describe_everything(self) -> str:
        """Returns events, descriptions and logs of the namespace: what is read when a test has failed."""
        events = ["get", "events", "--sort-by=.lastTimestamp"]
        kinds = "pods,statefulsets,deployments,jobs,services,endpointslices,persistentvolumeclaims"
        told = (["get", kinds, "-o", "wide"], ["get", "litefsclusters", "-o", "yaml"], events, ["describe", "pods"])
        parts = [self._told(words) for words in told]
        for pod in self._told(["get", "pods", "-o", "name"]).split():
            if pod.startswith("pod/"):
                log = ["logs", pod, "--all-containers", "--prefix", f"--tail={_LOG_LINES}"]
                parts += [self._told(log), self._told([*log, "--previous"])]
        return "\n\n".join(parts)

    def _told(self, words: list[str]) -> str:
        try:
            return self(*words)
        except (CommandError, OSError) as error:  # the latter when the cluster is down
            return str(error)

    def _is_ready(self, pod: str) -> bool:
        conditions = self.get("pod", pod)["status"].get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _read_states(stream: IO[str], states: list[dict[str, Any]]) -> None:
    """Objects follow one another without a separator: one ends with the brace that stands in the first column."""
    lines: list[str] = []
    for line in stream:
        lines.append(line)
        if line.startswith("}"):
            states.append(json.loads("".join(lines)))
            lines.clear()
