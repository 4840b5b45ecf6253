"""The HTTP API of a node as a FastAPI application: which request does what, and nothing else.

    endpoint          whose      what
    POST /stream      LiteFS     replication, see `replication`
    GET /export       LiteFS     a database file as it is at one position
    POST /import      LiteFS     a database file that replaces a database
    GET /info         LiteFS     role and primary
    GET /events       LiteFS     transactions and changes of the primary, one JSON a line
    GET /metrics      LiteFS     Prometheus
    POST /promote     LiteFS     200 when the primary has handed its lease to this node; 409 if that is no candidate
    POST /handoff     LiteFS     200 when the replica `nodeID` has taken the lease; with nodeID=freshest, which is ours,
                                 the candidate that has most, if any: see `HandoffOutcome`
    /halt /tx         LiteFS     501: not in this version
    GET /debug/vars   LiteFS     role and positions, as Go's expvar
    GET /status       ours       role, positions, lag and followers as JSON; with `wait=SECONDS&unlike=STANDING` not
                                 before the node's standing is another one, or the time is over
    GET /healthz      ours       200 while the process works
    GET /readyz       ours       200 once the node is primary or has caught up with one, else 503 and the reason

Refusals are `text/plain`, one line. Nearly every answer names the node and the cluster.
"""

import asyncio
import logging
import re
from asyncio import get_running_loop
from concurrent.futures import Executor
from functools import partial
from http import HTTPStatus
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from litefs.errors import LiteFSError, NotPrimaryError
from litefs.formats.position import Pos
from litefs.formats.stream import decode_position_map
from litefs.formats.stream_channels import VERSION, VERSION_HEADER
from litefs.http.access import RefusalLog, TokenGate, peer_of
from litefs.http.bodies import body_chunks, whole_body
from litefs.http.database_import import DatabaseImport
from litefs.http.errors import BadRequestError, ConflictError, DatabaseNotFoundError, NotBuiltError, OtherClusterError
from litefs.http.events import EventStream
from litefs.http.feed import CommitFeed
from litefs.http.followers import Follower, Followers
from litefs.http.live_streams import LiveStreams
from litefs.http.metrics import CONTENT_TYPE as METRICS_CONTENT_TYPE
from litefs.http.metrics import Metrics
from litefs.http.names import check_database_name
from litefs.http.node_view import NodeView
from litefs.http.pump import pump
from litefs.http.replication import ReplicationStream, StreamSettings
from litefs.http.responses import CONNECTION_EXTENSION, ProducedResponse
from litefs.http.snapshot_images import open_export
from litefs.http.status import HandoffOutcome, info_document, status_document, vars_document
from litefs.http.status_table import status_of
from litefs.http.status_waiters import StatusWaiters

POSITION_MAP_BYTES_MAX = 4 << 20
"""About 100,000 databases with names of ordinary length."""

POSITION_HEADER = "Litefs-Position"
"""Ours: the position of an exported file, `txid/checksum`."""

NODE_ID = re.compile(r"[0-9A-Fa-f]{1,16}", re.ASCII)

FRESHEST = "freshest"
"""Ours: the node id of whichever candidate has most."""

HANDOFF_SECONDS_MAX = 600.0
"""How long a request may wait for a candidate."""

STATUS_WAIT_SECONDS_MAX = 60.0
"""How long one may wait for news."""

LEAD_CHECK_S = 0.005
LEAD_CHECKS_MAX = 400
"""A node that has been given the lease is primary some milliseconds later; 2 s at most are waited for that."""

UNNAMED_PATHS = frozenset({"/metrics", "/debug/vars"})
"""Their answers do not say which node and cluster they come from, as with LiteFS."""

LEASE_EXPIRED = "lease expired"
"""What LiteFS answers, with 503, to a request that only the primary can serve."""

logger = logging.getLogger(__name__)


def _database_name(name: str = "") -> str:
    return check_database_name(name)


DatabaseName = Annotated[str, Depends(_database_name)]


class NodeApi:
    """The requests of one node, bound to it."""

    def __init__(
        self, node: NodeView, feed: CommitFeed, executor: Executor, settings: StreamSettings, streams: LiveStreams
    ) -> None:
        """Args: executor: its threads read disks, compress and wait for the link; streams: lists those it serves."""
        self._streams = streams
        self._node = node
        self._feed = feed
        self._executor = executor
        self._settings = settings
        self._followers = Followers()
        self._metrics = Metrics(node, feed, self._followers)
        self._waiters = StatusWaiters(node, feed)
        self._importing: set[str] = set()

    def router(self) -> APIRouter:
        """Returns the routes."""
        router = APIRouter()
        for method, path, endpoint in (
            ("POST", "/stream", self.stream),
            ("GET", "/export", self.export_database),
            ("POST", "/import", self.import_database),
            ("GET", "/info", self.info),
            ("GET", "/status", self.status),
            ("GET", "/debug/vars", self.variables),
            ("GET", "/events", self.events),
            ("GET", "/metrics", self.metrics),
            ("GET", "/healthz", self.healthz),
            ("GET", "/readyz", self.readyz),
            ("POST", "/promote", self.promote),
            ("POST", "/handoff", self.handoff),
            ("POST", "/halt", self.not_built),
            ("DELETE", "/halt", self.not_built),
            ("POST", "/tx", self.not_built),
        ):
            router.add_api_route(path, endpoint, methods=[method], response_model=None)
        return router

    async def stream(self, request: Request) -> Response:
        """Serves a replica: its positions in, images out."""
        status = self._node.status()
        caller = request.headers.get("litefs-id", "").upper()
        if caller == f"{status.node_id:016X}":
            raise BadRequestError("cannot connect to self")
        theirs = request.headers.get("litefs-cluster-id", "")
        if theirs and status.cluster_id and theirs != status.cluster_id:
            raise OtherClusterError(f"this node belongs to cluster {status.cluster_id}, the caller to {theirs}")
        body = await whole_body(request, POSITION_MAP_BYTES_MAX)
        if not body:
            raise BadRequestError("EOF")
        positions: dict[str, Pos] = decode_position_map(body)
        if not await self._leads_soon():
            raise NotPrimaryError(LEASE_EXPIRED)
        self._followers.check_room()
        names = request.query_params.get("filter")
        has_channels = request.headers.get(VERSION_HEADER) == VERSION
        client = request.client
        follower = Follower(
            node_id=caller[:16],
            address=f"{client.host}:{client.port}" if client else "",
            positions=positions,
            names=frozenset(names.split(",")) if names else None,
            has_channels=has_channels,
        )
        connection = request.scope["extensions"][CONNECTION_EXTENSION]
        stream = ReplicationStream(
            self._node,
            self._feed,
            self._executor,
            self._followers,
            follower,
            self._settings,
            connection["set_dead_after"],
            connection.get("sign_n", lambda: 0),
        )
        logger.info("replica %s at %s follows with %d databases", follower.node_id, follower.address, len(positions))
        return ProducedResponse(
            partial(self._streams.run, stream),
            headers={VERSION_HEADER: VERSION} if has_channels else None,
        )

    async def _leads_soon(self) -> bool:
        """Whether this node is primary; one that is just becoming it is waited for, as replicas notice it earlier."""
        for _ in range(LEAD_CHECKS_MAX):
            if self._node.status().role != "acquiring":
                break
            await asyncio.sleep(LEAD_CHECK_S)
        return self._node.status().leads

    async def export_database(self, name: DatabaseName) -> Response:
        """Sends a database file as it is at one position."""
        database = self._feed.positions.get(name)
        if database is None or (database.txid > 0 and database.page_n == 0):
            raise DatabaseNotFoundError("database not found")
        if database.txid == 0:
            return Response()
        export = await get_running_loop().run_in_executor(self._executor, open_export, self._node, name)
        return ProducedResponse(
            partial(pump, self._executor, export.pages),
            media_type="application/octet-stream",
            headers={"Content-Length": str(export.size_bytes), POSITION_HEADER: str(export.pos)},
        )

    async def import_database(self, request: Request, name: DatabaseName) -> Response:
        """Replaces a database by the file in the body."""
        if not self._node.status().is_primary:
            raise NotPrimaryError(LEASE_EXPIRED)
        if name in self._importing:
            raise ConflictError(f"an import of {name!r} is under way")
        length = request.headers.get("content-length", "")
        database_import = DatabaseImport(
            partial(self._node.open_replacement, name), self._executor, int(length) if length.isdigit() else None
        )
        self._importing.add(name)
        try:
            await database_import.run(body_chunks(request))
        finally:
            self._importing.discard(name)
        return Response()

    async def info(self) -> Response:
        """Tells role and primary."""
        document = info_document(self._node.status(), str(self._node.data_dir))
        return Response(document, media_type="text/plain")

    async def status(self, request: Request) -> Response:
        """Tells everything about the node's standing, at once or when that is another one than the caller knows."""
        query = request.query_params
        if "wait" in query:
            wait_s = _seconds_of(query["wait"], "wait", STATUS_WAIT_SECONDS_MAX)
            await self._waiters.wait(query.get("unlike", ""), wait_s)
        document = status_document(self._node.status(), self._feed.positions, self._followers.connected)
        return Response(document, media_type="application/json")

    async def variables(self) -> Response:
        """Tells role and positions in the form of Go's expvar."""
        document = vars_document(self._node.status(), self._feed.positions)
        return Response(document, headers={"Content-Type": "application/json; charset=utf-8"})

    async def events(self) -> Response:
        """Streams transactions and changes of the primary."""
        return ProducedResponse(EventStream(self._node, self._feed, self._executor).run, media_type="application/json")

    async def metrics(self) -> Response:
        """Reports to Prometheus."""
        exposition = await get_running_loop().run_in_executor(self._executor, self._metrics.exposition)
        return Response(exposition, headers={"Content-Type": METRICS_CONTENT_TYPE})

    async def healthz(self) -> Response:
        """Says that the process works."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Says whether the databases are those of the primary."""
        status = self._node.status()
        if status.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"not ready: {status.obstacle}\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def promote(self) -> Response:
        """Makes this node the primary; a primary has nothing to do, and who is no candidate cannot."""
        await asyncio.to_thread(self._node.promote)
        return Response()

    async def handoff(self, request: Request) -> Response:
        """Hands the lease to a replica that follows this node."""
        text = request.query_params.get("nodeID", "")
        if text == FRESHEST:
            return await self._handoff_to_freshest(request)
        if not NODE_ID.fullmatch(text):
            raise BadRequestError("invalid node id")
        await asyncio.to_thread(self._node.handoff, int(text, 16))
        return Response()

    async def _handoff_to_freshest(self, request: Request) -> Response:
        """Hands the lease to whichever candidate has most, if there is one; ours."""
        timeout_s = _seconds_of(request.query_params.get("timeout", "5"), "timeout", HANDOFF_SECONDS_MAX)
        was_primary = self._node.status().is_primary
        if request.query_params.get("leave") == "true":
            self._node.leave()
        target = await asyncio.to_thread(self._node.handoff_to_freshest, timeout_s)
        outcome = HandoffOutcome(was_primary=was_primary, node_id=f"{target:016X}" if target is not None else "")
        return Response(msgspec.json.encode(outcome), media_type="application/json")

    async def not_built(self, request: Request) -> Response:
        """Refuses what this version cannot do."""
        raise NotBuiltError(f"{request.url.path} is not supported by this version")


def create_app(
    node: NodeView,
    feed: CommitFeed,
    executor: Executor,
    settings: StreamSettings,
    streams: LiveStreams,
    token: str = "",
    *,
    open_metrics: bool = False,
) -> ASGIApp:
    """Returns the application of one node.

    Args:
        node: what it serves.
        feed: of the node's commits.
        executor: its threads read disks, compress and wait for the link.
        settings: of the replication streams.
        streams: lists those that are open.
        token: what every request but those for health must carry; "" lets everybody in.
        open_metrics: nor those for metrics.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.refusals = RefusalLog()
    app.include_router(NodeApi(node, feed, executor, settings, streams).router())
    app.add_exception_handler(HTTPException, _refuse_unrouted)
    for kind in (LiteFSError, OSError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(ClientDisconnect, _ignore)
    named = IdentityHeaders(app, node)
    return TokenGate(named, token, app.state.refusals, open_metrics=open_metrics) if token else named


class IdentityHeaders:
    """Puts the node's and the cluster's id on every answer but those of `UNNAMED_PATHS`."""

    def __init__(self, app: ASGIApp, node: NodeView) -> None:
        """Args: app: the application whose answers they are put on."""
        self._app = app
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"] not in UNNAMED_PATHS:
                status = self._node.status()
                headers = MutableHeaders(scope=message)
                headers["Litefs-Id"] = f"{status.node_id:016X}"
                if status.cluster_id:
                    headers["Litefs-Cluster-Id"] = status.cluster_id
            await send(message)

        await self._app(scope, receive, send_named)


def _seconds_of(text: str, name: str, seconds_max: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= seconds_max:
        raise BadRequestError(f"{name}: expected seconds, at most {seconds_max:.0f}")
    return seconds


def _refusal(status: int, reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", status, headers={"X-Content-Type-Options": "nosniff"})


async def _refuse(request: Request, error: Exception) -> Response:
    status = status_of(error)
    if status is None:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
    request.app.state.refusals.note(peer_of(request.scope), f"{request.method} {request.url.path}: {status} {error}")
    return _refusal(status, str(error))


async def _refuse_unrouted(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "404 page not found", 405: "method not allowed"}.get(error.status_code, error.detail)
    return _refusal(error.status_code, reason)


async def _ignore(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it
