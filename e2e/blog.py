"""The application under test: a LiteFSCluster, a StatefulSet of its pods, and what a test asks of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e import workloads
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.workloads import CLUSTER, DATABASE, PORT

PODS = tuple(f"{CLUSTER}-{ordinal}" for ordinal in range(3))
RW_URL = f"http://{CLUSTER}-rw:{PORT}"

FOLLOW_TIMEOUT_S = 60.0

_CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one row that the client sent.

    Attributes:
        at_s: when the answer was there, by the clock of the client's machine.
        url: where it was sent to.
        text: the row.
        code: of HTTP; 200 is an acknowledged commit, 0 no answer at all.
        answer: the pod that committed it, or the error.
    """

    at_s: float
    url: str
    text: str
    code: int
    answer: str


class Blog:
    """Three pods of one cluster, in the namespace of a test module."""

    def __init__(self, kubectl: Kubectl, image: str) -> None:
        """Args: image: of the application."""
        self.kubectl = kubectl
        self.image = image
        self._client_n = 0

    def start(self, *, replicas: int = 3, run_down_s: float = 0.0, **spec: Any) -> float:
        """Creates everything, and returns after how many seconds all was well.

        Args:
            replicas, run_down_s: of the StatefulSet.
            spec: of the LiteFSCluster.
        """
        stateful_set = workloads.stateful_set(self.image, replicas=replicas, run_down_s=run_down_s)
        self.kubectl.apply(workloads.cluster(**spec), workloads.script(), stateful_set)
        return self.wait_running(replicas)

    def wait_running(self, node_n: int = 3) -> float:
        """Waits until the operator says that all is well and the applications run; returns for how many seconds."""
        nodes = f"{node_n}/{node_n}"

        def is_running() -> bool:
            status = self.status()
            return self.condition("Ready") == "True" and status.get("nodeCount") == nodes

        waited_s = wait_until(f"{CLUSTER} Ready with {nodes}", is_running, timeout_s=READY_TIMEOUT_S)
        waited_s += self.kubectl.wait_ready(*PODS[:node_n])
        # kube-proxy hears of an endpoint after the operator.
        return waited_s + wait_until("an answer of -rw", self._is_reachable, timeout_s=READY_TIMEOUT_S)

    def status(self) -> dict[str, Any]:
        """Returns the status of the LiteFSCluster."""
        found: dict[str, Any] = self.kubectl.get("litefscluster", CLUSTER).get("status", {})
        return found

    def condition(self, kind: str) -> str:
        """Returns whether a condition of the LiteFSCluster holds: True, False, Unknown, or "" if it is not there."""
        found = [entry["status"] for entry in self.status().get("conditions", []) if entry["type"] == kind]
        return str(found[0]) if found else ""

    def primary(self) -> str:
        """Returns the pod that is primary, as the operator says; waits for one."""
        wait_until("a primary", lambda: bool(self.status().get("primary")), timeout_s=READY_TIMEOUT_S)
        return str(self.status()["primary"])

    def replicas(self) -> list[str]:
        """Returns the other pods."""
        primary = self.primary()
        return [pod for pod in PODS if pod != primary]

    def address(self, pod: str) -> str:
        """Returns the IP of a pod."""
        return str(self.kubectl.get("pod", pod)["status"]["podIP"])

    def uid(self, pod: str) -> str:
        """Returns the UID of a pod, "" if there is none of this name."""
        return self.kubectl("get", "pod", pod, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")

    def addresses(self, service: str) -> set[str]:
        """Returns the IPs that NAME-`service` sends to."""
        selector = f"kubernetes.io/service-name={CLUSTER}-{service}"
        slices = json.loads(self.kubectl("get", "endpointslices", "--selector", selector, "-o", "json"))["items"]
        return set().union(*map(serving_addresses, slices))

    def sql(self, pod: str, statement: str) -> str:
        """Returns what the sqlite3 program prints in a pod; it waits for locks, not for mounts.

        Raises:
            CommandError: it failed.
        """
        words = ["sqlite3", "-cmd", ".timeout 5000", DATABASE, statement]
        return self.kubectl.execute(pod, "application", words).strip()

    def accepts_write(self, pod: str) -> bool:
        """Whether a pod takes a row."""
        try:
            self.sql(pod, "insert into t values ('who is primary?', 0)")
        except CommandError:
            return False
        return True

    def send(self, text: str, *, through: str | None = None) -> str:
        """Sends one row through -rw from a pod, and returns the pod that committed it.

        Args:
            through: another URL.

        Raises:
            CommandError: it was not acknowledged.
        """
        curl = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "10", "--data-binary", text]
        return self.kubectl.execute(PODS[0], "application", [*curl, f"{through or RW_URL}/insert"]).strip()

    def _is_reachable(self) -> bool:
        curl = ["curl", "--silent", "--fail", "--max-time", "5", f"{RW_URL}/count"]
        try:
            self.kubectl.execute(PODS[0], "application", curl)
        except CommandError:
            return False
        return True

    def wait_rows(self, pod: str, text: str, count: int) -> float:
        """Waits until a pod has a number of rows with a text, and returns for how many seconds."""
        select = f"select count(*) from t where text like '{text}'"

        def are_there() -> bool:
            try:
                return self.sql(pod, select) == str(count)
            except CommandError:
                return False

        return wait_until(f"{count} rows {text} in {pod}", are_there, timeout_s=READY_TIMEOUT_S)

    def wait_texts(self, texts: set[str]) -> None:
        """Waits until every pod has all of these rows; what is lost is missing for ever."""

        def have_all() -> bool:
            return all(texts <= set(self.sql(pod, "select text from t").splitlines()) for pod in PODS)

        wait_until("all acknowledged rows in every pod", have_all, timeout_s=FOLLOW_TIMEOUT_S)

    @contextmanager
    def client(self, *urls: str, name: str = _CLIENT, machine: str = "") -> Iterator[None]:
        """Keeps a pod writing to each of some URLs, from the first row acknowledged to the end of the block.

        Args:
            name: of the pod.
            machine: where it is to run; "" for any.
        """
        self._client_n += 1
        pod = workloads.pod(name, self.image, "post", f"row-{self._client_n}", *urls)
        pod["spec"]["nodeName"] = machine
        self.kubectl.apply(workloads.script(), pod)
        try:
            is_writing = f"a row acknowledged by {urls[0]}"
            wait_until(is_writing, lambda: any(map(_is_acknowledged, self.answers(name))), timeout_s=READY_TIMEOUT_S)
            yield
        finally:
            # Killed: what it has begun is no longer of interest.
            self.kubectl("delete", "pod", name, "--grace-period=0", "--force", timeout_s=GONE_TIMEOUT_S)

    def answers(self, name: str = _CLIENT) -> list[Answer]:
        """Returns what a client got so far."""
        lines = self.kubectl.log(name, "application").splitlines()
        return [Answer(**json.loads(line)) for line in lines if line.endswith("}")]


def serving_addresses(endpoint_slice: dict[str, Any]) -> set[str]:
    """Returns the IPs in an EndpointSlice that get connections."""
    return {
        address
        for endpoint in endpoint_slice.get("endpoints") or []
        for address in endpoint["addresses"]
        if endpoint["conditions"].get("ready")
    }


def _is_acknowledged(answer: Answer) -> bool:
    return answer.code == 200
