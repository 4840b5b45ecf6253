"""Pods created all the time, as far as the API server's admission goes: they are dry runs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from e2e import workloads
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.kubectl import READY_TIMEOUT_S, Kubectl

ENOUGH_N = 50


class Creations:
    """Creates annotated pods, one after the other.

    Attributes:
        done_n: how many there were so far.
        refusals: the errors of those that were refused.
    """

    def __init__(self, kubectl: Kubectl, image: str, *, cluster: str = workloads.CLUSTER, pause_s: float = 0.0) -> None:
        """Args: image: of the pods; cluster: their LiteFSCluster; pause_s: between two of them."""
        self.done_n = 0
        self.refusals: list[str] = []
        self._kubectl = kubectl
        self._pod = json.dumps(workloads.pod("created", image, asks=workloads.annotations(cluster)))
        self._pause_s = pause_s
        self._stopped = threading.Event()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Creates pods until the end of the block."""
        thread = threading.Thread(target=self._create)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def wait_enough(self) -> None:
        """Returns when there were enough, some of them from now on."""
        enough_n = max(ENOUGH_N, self.done_n + ENOUGH_N // 5)
        wait_until(f"{enough_n} creations", lambda: self.done_n >= enough_n, timeout_s=READY_TIMEOUT_S)

    def _create(self) -> None:
        while not self._stopped.wait(self._pause_s):
            try:
                self._kubectl("create", "--dry-run=server", "-f", "-", stdin=self._pod)
            except CommandError as refusal:
                self.refusals.append(str(refusal))
            self.done_n += 1
