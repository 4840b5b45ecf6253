"""`litefs-operator run`: puts the parts together, and takes them down in order.

SIGTERM: not ready, Lease released  →  connections drained (4 s)  →  kopf ended, port closed
"""

import asyncio
import logging
import signal
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kopf

from litefs_operator.admission import Admission
from litefs_operator.certificate_keeper import CertificateKeeper
from litefs_operator.errors import KubeError, KubeUnavailableError, OperatorError
from litefs_operator.events import EventRecorder
from litefs_operator.handlers import Handlers, ReportedElsewhere
from litefs_operator.health import health_server
from litefs_operator.injection import Installation
from litefs_operator.injection_status import InjectionStatus
from litefs_operator.known import ClusterKey, Known
from litefs_operator.kube import KubeApi
from litefs_operator.leader import Leader
from litefs_operator.metrics import Metrics
from litefs_operator.node_client import NodeClient
from litefs_operator.options import LogStyle, Options
from litefs_operator.reconcile.act import Actor
from litefs_operator.reconcile.leases import InstalledConsul, Leases
from litefs_operator.reconcile.reconciler import Reconciler
from litefs_operator.reconcile.stores import Stores
from litefs_operator.tokens import read_master_key
from litefs_operator.webhook_server import DRAIN_S, WebhookServer

COMPONENT = "litefs-operator"
LISTED_LOOK_S = 0.1
"""How often a replica that starts looks whether it knows what there is."""

RETRY_S = 5.0
THREADS = 16
"""Requests at once: four workers, events, the webhook's lookups; and the Lease, which must not wait behind them."""

_log = logging.getLogger("litefs_operator")


def run_operator(options: Options) -> bool:
    """Runs until a signal comes. Returns whether that is why it ended."""
    style = kopf.LogFormat.JSON if options.log_style is LogStyle.JSON else kopf.LogFormat.FULL
    kopf.configure(debug=options.debug, log_format=style)
    logging.getLogger("kopf.objects").addFilter(ReportedElsewhere())
    try:
        with tempfile.TemporaryDirectory(prefix="litefs-tls-") as own_dir:
            certificate_dir = options.webhook.tls_dir or Path(own_dir)
            asyncio.run(_run(options, certificate_dir))
    except OperatorError as error:
        _log.error("%s", error)
        return False
    return True


async def _run(options: Options, certificate_dir: Path) -> None:
    await Operator(options, KubeApi.connect(), certificate_dir).run()


class Operator:
    """One replica. For one event loop, in which it is made."""

    def __init__(self, options: Options, kube: KubeApi, certificate_dir: Path) -> None:
        """Args: kube: the connection that everything but kopf uses; certificate_dir: has, or gets, the webhook's."""
        self._options = options
        self._kube = kube
        self._metrics = Metrics()
        self._events = EventRecorder(kube, COMPONENT, options.pod_name)
        self._status = InjectionStatus(kube, self._events)
        self._leader = Leader(kube, options.pod_namespace, options.lease, options.pod_name)
        self._server = WebhookServer(options.webhook.port, certificate_dir, self._metrics)
        self._certificates: CertificateKeeper | None = None
        if options.webhook.tls_dir is None:
            self._certificates = CertificateKeeper(kube, options.webhook, options.pod_namespace, certificate_dir)
        self._installation = Installation(image=options.sidecar_image, consul_url=options.consul_url)
        self._reconciler: Reconciler | None = None
        self._is_ending = False
        self._known = Known(kube, options.namespaces, self._metrics, self._changed)
        self._stores = Stores(kube, options.namespaces, self._metrics, self._changed, self._budget_changed)

    async def run(self) -> None:
        """Runs until a signal comes, or a part fails."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="api"))
        self._metrics.cluster_count(lambda: len(self._known.clusters()))
        self._metrics.leader.set_function(lambda: float(self._leader.leads()))
        health = health_server(self._options.health_port, self._metrics, self._missing)
        async with health, asyncio.TaskGroup() as group:
            parts = [self._events.run(), self._status.run(), self._leader.run(self._lead)]
            if self._certificates is not None:
                parts.append(self._certificates.run())
            tasks = [group.create_task(part) for part in parts]
            try:
                await self._serve()
            finally:
                for task in tasks:
                    task.cancel()

    async def _serve(self) -> None:
        """Runs kopf, and winds up when a signal comes."""
        options = self._options
        handlers = Handlers(self._admission(), self._server)
        started, stop, told = asyncio.Event(), asyncio.Event(), asyncio.Event()
        # By default kopf looks for the name of the user, which an image need not have.
        identity: Any = options.pod_name
        kopf_task = asyncio.create_task(
            kopf.operator(
                registry=handlers.registry(),
                standalone=True,
                clusterwide=True,  # it watches nothing, wherever
                identity=identity,
                ready_flag=started,
                stop_flag=stop,
            )
        )
        await _first(kopf_task, started.wait())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told.set)  # in place of kopf's, which closes the port at once
        await _first(kopf_task, told.wait())
        if not kopf_task.done():
            await self._wind_up()
            stop.set()
        await kopf_task

    async def _wind_up(self) -> None:
        _log.info("told to end: connections are closed with their next answer")
        self._is_ending = True
        self._server.drain()
        await self._leader.release()
        await asyncio.sleep(DRAIN_S)

    def _admission(self) -> Admission:
        return Admission(
            self._kube,
            self._known,
            self._stores.leases,
            self._installation,
            self._status,
            self._metrics,
            reads_namespaces=not self._options.namespaces,
        )

    def _changed(self, key: ClusterKey) -> None:
        """Something of a LiteFSCluster changed."""
        if self._reconciler is not None:
            self._reconciler.touch(key)

    def _budget_changed(self, namespace: str) -> None:
        if self._reconciler is not None:
            self._reconciler.touch_namespace(namespace)

    async def _lead(self) -> None:
        """Keeps the clusters, for as long as this replica has the Lease."""
        options, metrics = self._options, self._metrics
        while not (self._known.is_listed() and self._stores.is_listed()):  # noqa: ASYNC110 - they come from threads
            await asyncio.sleep(LISTED_LOOK_S)
        key = await self._master_key()
        installed = InstalledConsul(url=options.consul_url, token=options.consul_token, ca=options.consul_ca)
        self._reconciler = Reconciler(
            self._known,
            self._stores,
            self._installation,
            lambda touch: Leases(installed, metrics, touch),
            Actor(self._kube, key, metrics),
            NodeClient(),
            self._events,
            metrics,
        )
        try:
            await self._reconciler.run()
        finally:
            self._reconciler = None

    async def _master_key(self) -> bytes:
        while True:
            try:
                return await asyncio.to_thread(
                    read_master_key, self._kube, self._options.pod_namespace, self._options.key_secret
                )
            except (KubeError, KubeUnavailableError) as error:
                _log.error("the key of this installation: %s", error)
            await asyncio.sleep(RETRY_S)

    def _missing(self) -> list[str]:
        """Returns what keeps this replica from being ready."""
        waits = {
            "ending": self._is_ending,
            "the webhook is not served yet": not self._server.is_serving,
            "the LiteFSClusters are not read yet": not self._known.is_listed(),
            "their pods are not read yet": not self._stores.is_listed(),
        }
        return [text for text, holds in waits.items() if holds]


async def _first(task: "asyncio.Task[None]", other: Coroutine[Any, Any, object]) -> None:
    """Waits until one of the two is done."""
    waiter = asyncio.ensure_future(other)
    await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
