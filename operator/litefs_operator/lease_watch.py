"""The leases of all clusters, as Consul shows them: one thread for each Consul and prefix.

    unknown --first answer--> answered --silent for 6 s--> unreachable --answer--> answered
       └--403--> denied

Strategy: clusters without a key of their own lie below one prefix, so one query in Consul waits for all of them.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from litefs_operator.consul import ConsulAddress, ConsulClient, Holder
from litefs_operator.errors import ConsulDeniedError, ConsulError

COMMON_PREFIX = "litefs/"
"""Leads the key of a cluster that names none: litefs/NAMESPACE/NAME."""

WAIT_S = 5.0
"""How long a query waits in Consul. A Consul that hangs is noticed by then, and 2 s later."""
UNREACHABLE_S = 6.0
"""An election in Consul takes less; LeaseBackendReachable is to be False within 15 s."""
RETRY_S = 1.0
DENIED_RETRY_S = 10.0
SPACING_S = 0.1
"""Between two answers: candidates write their positions below the same prefix, ten times this often at worst."""

_log = logging.getLogger("litefs_operator.lease")


class ConsulState(StrEnum):
    """What a Consul says."""

    UNKNOWN = "unknown"
    ANSWERED = "answered"
    UNREACHABLE = "unreachable"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulView:
    """What one Consul said last.

    Attributes:
        holders: by key; empty unless it answered.
        message: what is wrong; "" if nothing.
    """

    state: ConsulState = ConsulState.UNKNOWN
    holders: dict[str, Holder] = field(default_factory=dict)
    message: str = ""


class LeaseWatch:
    """One Consul and prefix. Its thread ends soon after `stop`, and never keeps the process alive."""

    def __init__(
        self, address: ConsulAddress, prefix: str, changed: Callable[["LeaseWatch", ConsulView, ConsulView], None]
    ) -> None:
        """Args: changed: is called in the event loop, with the view before and the view now."""
        self.view = ConsulView()
        self.heard_at = time.monotonic()
        """When Consul answered last, in monotonic seconds."""
        self._address = address
        self._prefix = prefix
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"leases below {prefix}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current query; nothing is reported any more."""
        self._stopped.set()

    def join(self) -> None:
        """Waits until the thread has ended, after `stop`. Blocks."""
        self._thread.join()

    def _run(self) -> None:
        client, index = ConsulClient(self._address), 0
        while not self._stopped.is_set():
            pause_s = SPACING_S
            try:
                new_index, holders = client.holders(self._prefix, index, WAIT_S)
            except ConsulDeniedError as error:
                index, pause_s = 0, DENIED_RETRY_S
                self._report(ConsulView(state=ConsulState.DENIED, message=str(error)))
            except ConsulError as error:
                index, pause_s = 0, RETRY_S
                if time.monotonic() - self.heard_at >= UNREACHABLE_S:
                    self._report(ConsulView(state=ConsulState.UNREACHABLE, message=str(error)))
            except Exception:  # noqa: BLE001
                # Nobody would notice a dead thread: the leases would stand still.
                _log.exception("the leases below %s cannot be read", self._prefix)
                index, pause_s = 0, RETRY_S
            else:
                self.heard_at = time.monotonic()
                # An index that went backwards belongs to another Consul, or to one that was restored.
                index = new_index if new_index >= index else 0
                pause_s = SPACING_S if index else RETRY_S
                self._report(ConsulView(state=ConsulState.ANSWERED, holders=holders))
            self._stopped.wait(pause_s)

    def _report(self, view: ConsulView) -> None:
        if self._stopped.is_set():
            return
        try:
            self._loop.call_soon_threadsafe(self._take, view)
        except RuntimeError:  # the loop is closed: the process ends
            self._stopped.set()

    def _take(self, view: ConsulView) -> None:
        before, self.view = self.view, view
        if before != view and not self._stopped.is_set():
            if (before.state, before.message) != (view.state, view.message) and view.message:
                _log.warning("%s", view.message)
            self._changed(self, before, view)
