"""A machine is cut off, loses its power, and is drained, with the primary's pod on it: another machine takes over.

What nobody else had is lost to the cluster when the machine goes without a word, for replication is asynchronous; the
rows that an application wrote beside the primary all the time say how much that is.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e import components
from e2e.blog import PODS, RW_URL, Answer, Blog
from e2e.commands import wait_until
from e2e.figures import Figures
from e2e.installation import Installation
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.layout import NODE1, NODE2
from e2e.second_node import SecondNode
from e2e.target import Target
from e2e.workloads import CLUSTER, DATABASE, PORT

WANDERER = PODS[1]
"""The pod on the second machine; the others have claims that are bound to the first."""

BESIDE = "beside"
"""A client on the machine of the primary, which it reaches whatever is cut off."""


@pytest.fixture(scope="module")
def second(kubectl: Kubectl, target: Target, installation: Installation, figures: Figures) -> Iterator[SecondNode]:
    if not target.is_own:
        pytest.skip("starts a machine of its own")
    second = SecondNode(kubectl)
    try:
        start_s = time.monotonic()
        second.start(target)
        figures("second machine up, images imported", time.monotonic() - start_s)
        yield second
    finally:
        second.remove()


@pytest.fixture(scope="module")
def blog(kubectl: Kubectl, target: Target, second: SecondNode) -> Iterator[Blog]:
    disk = f"{kubectl.namespace}-disk"
    claim = {"namespace": kubectl.namespace, "name": f"litefs-data-{WANDERER}"}
    kubectl.apply(components.volume(disk, NODE1, NODE2, claimRef=claim))
    blog = Blog(kubectl, target.application_image)
    blog.start()
    yield blog
    kubectl("delete", "statefulset", CLUSTER)
    kubectl("delete", "persistentvolume", disk, "--wait=false")


def lead_from_second(blog: Blog) -> None:
    """Makes the pod on the second machine the primary: there is nobody on the first who would not outlive it."""
    assert machine_of(blog) == NODE2.name
    blog.kubectl.execute(WANDERER, "litefs", ["litefs", "promote"])
    wait_until("it to be told", lambda: blog.primary() == WANDERER, timeout_s=READY_TIMEOUT_S)
    blog.wait_running()


def machine_of(blog: Blog) -> str:
    return str(blog.kubectl.get("pod", WANDERER)["spec"].get("nodeName"))


def told_of_wanderer(blog: Blog) -> dict[str, Any]:
    """What the LiteFSCluster says of the pod."""
    (entry,) = [node for node in blog.status()["nodes"] if node["pod"] == WANDERER]
    found: dict[str, Any] = entry
    return found


@pytest.mark.parametrize(
    ("lose", "bring_back"), [(SecondNode.cut_off, SecondNode.reconnect), (SecondNode.power_off, SecondNode.boot)]
)
def test_another_machine_takes_over_and_the_lost_one_follows_when_it_is_back(
    blog: Blog,
    second: SecondNode,
    figures: Figures,
    lose: Callable[[SecondNode], None],
    bring_back: Callable[[SecondNode], None],
) -> None:
    lead_from_second(blog)
    uid = blog.uid(WANDERER)
    address = blog.address(WANDERER)
    with (
        blog.client(RW_URL, machine=NODE1.name),
        blog.client(f"http://{address}:{PORT}", name=BESIDE, machine=NODE2.name),
    ):
        lost_s = time.monotonic()
        lose(second)
        try:
            unheard_s = wait_until(
                "Ready=Unknown", lambda: blog.condition("Ready") == "Unknown", timeout_s=READY_TIMEOUT_S
            )
            wait_until("-rw elsewhere", lambda: not blog.addresses("rw") <= {address}, timeout_s=READY_TIMEOUT_S)
            moved_s = time.monotonic() - lost_s
            wait_until("a row through -rw elsewhere", lambda: acknowledged_elsewhere(blog), timeout_s=READY_TIMEOUT_S)
            check_while_lost(blog)
            # Kubernetes waits for a machine that may come back: its pod is what it was.
            assert blog.uid(WANDERER) == uid
        finally:
            back_s = time.monotonic()
            bring_back(second)
        wait_until("the lost node to be heard", lambda: told_of_wanderer(blog)["ready"], timeout_s=READY_TIMEOUT_S)
        figures(f"{bring_back.__name__} → the old primary follows", time.monotonic() - back_s)
        wait_until("its readers", lambda: blog.address(WANDERER) in blog.addresses("ro"), timeout_s=READY_TIMEOUT_S)
        blog.wait_running()
        wait_until("the log of a client there", lambda: bool(blog.answers(BESIDE)), timeout_s=READY_TIMEOUT_S)
        through_rw, beside = blog.answers(), blog.answers(BESIDE)
    assert blog.uid(WANDERER) == uid
    kept = check_histories(blog, through_rw, beside)

    what = f"primary's machine, {lose.__name__}"
    acknowledged = acknowledged_by_wanderer(through_rw + beside)
    lost = [answer for answer in acknowledged if answer.text not in kept]
    assert not lost or "app.db" in blog.kubectl.execute(WANDERER, "litefs", ["ls", "/var/lib/litefs/dbs-aside"])
    stood_s = max(answer.at_s for answer in acknowledged) - lost_s
    errors = sorted({answer.answer for answer in beside if answer.code != 200 and answer.at_s > lost_s})
    detail = f"the old primary took rows for {stood_s:.1f} s, then said {errors}; {len(lost)} of them are lost"
    figures(f"{what} → row acknowledged through -rw", first_elsewhere_s(through_rw) - lost_s, detail)
    figures(f"{what} → Ready=Unknown", unheard_s)
    figures(f"{what} → -rw moved", moved_s)


def test_a_drained_machine_s_pod_goes_to_the_other_one(blog: Blog, second: SecondNode, figures: Figures) -> None:
    lead_from_second(blog)
    with blog.client(RW_URL, machine=NODE1.name):
        drained_s = time.monotonic()
        words = ["drain", NODE2.name, "--ignore-daemonsets", "--delete-emptydir-data"]
        blog.kubectl(*words, f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)
        wait_until("a row through -rw elsewhere", lambda: acknowledged_elsewhere(blog), timeout_s=READY_TIMEOUT_S)
        wait_until("a new pod", lambda: machine_of(blog) == NODE1.name, timeout_s=READY_TIMEOUT_S)
        blog.kubectl.wait_ready(WANDERER)
        ready_s = time.monotonic() - drained_s
        answers = blog.answers()
    blog.wait_running()
    assert not got_snapshot(blog)  # its claim came with it
    blog.wait_texts({answer.text for answer in answers if answer.code == 200})
    figures("drained machine → row acknowledged through -rw", first_elsewhere_s(answers) - drained_s)
    figures("drained machine → its pod Ready on the other one", ready_s)


def test_a_node_that_lost_its_claim_starts_with_a_snapshot(blog: Blog) -> None:
    """As where the claim is bound to a machine that does not come back."""
    uid = blog.uid(WANDERER)
    blog.kubectl("delete", "persistentvolumeclaim", f"litefs-data-{WANDERER}", "--wait=false")
    blog.kubectl("delete", "pod", WANDERER)
    wait_until("a new pod", lambda: blog.uid(WANDERER) not in {"", uid}, timeout_s=READY_TIMEOUT_S)
    blog.wait_running()
    assert got_snapshot(blog)
    assert len(states(blog)) == 1


def got_snapshot(blog: Blog) -> bool:
    """Whether the primary sent one to the wanderer of today."""
    lines = blog.kubectl.log(blog.primary(), "litefs").splitlines()
    return any("snapshot to" in line and f"{blog.address(WANDERER)}:" in line for line in lines)


def acknowledged_elsewhere(blog: Blog) -> bool:
    return any(answer.code == 200 and answer.answer != WANDERER for answer in blog.answers())


def first_elsewhere_s(answers: list[Answer]) -> float:
    return min(answer.at_s for answer in answers if answer.code == 200 and answer.answer != WANDERER)


def acknowledged_by_wanderer(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.code == 200 and answer.answer == WANDERER]


def check_while_lost(blog: Blog) -> None:
    """What people see meanwhile."""

    def is_told() -> bool:
        status = blog.status()
        told = {entry["type"]: entry["status"] for entry in status["conditions"]}
        primary = status.get("primary", WANDERER)
        return (
            primary != WANDERER
            and (status["phase"], status["nodeCount"]) == ("Degraded", "2/3")
            and (told["PrimaryElected"], told["ReplicasSynced"], told["Ready"]) == ("True", "Unknown", "Unknown")
            and blog.addresses("rw") == {blog.address(primary)}
            and blog.addresses("ro") == {blog.address(pod) for pod in PODS if pod not in (primary, WANDERER)}
        )

    wait_until("the new primary, and a node that is silent", is_told, timeout_s=READY_TIMEOUT_S)
    entry = told_of_wanderer(blog)
    assert (entry["nodeName"], entry["ready"], "role" in entry) == (NODE2.name, False, False)
    assert entry["lastSeen"]


def check_histories(blog: Blog, *clients: list[Answer]) -> set[str]:
    """Returns the one history that is everywhere: all of the new primary's rows and the first of the old one's.

    No two were primary at a time.
    """
    # What the clients had begun when they were killed may come later.
    wait_until("one state of all nodes", lambda: len(states(blog)) == 1, timeout_s=READY_TIMEOUT_S)
    ((_, rows),) = states(blog)
    kept = set(rows.splitlines())
    everybody = [answer for answers in clients for answer in answers]
    assert {answer.text for answer in everybody if answer.code == 200 and answer.answer != WANDERER} <= kept
    for answers in clients:
        is_kept = [answer.text in kept for answer in acknowledged_by_wanderer(answers)]
        assert is_kept == sorted(is_kept, reverse=True)
    last_s = max(answer.at_s for answer in acknowledged_by_wanderer(everybody))
    assert last_s < first_elsewhere_s(everybody)
    return kept


def states(blog: Blog) -> set[tuple[str, str]]:
    """Returns position, with the checksum of the whole database, and rows of each node."""
    position = ["cat", f"{DATABASE}-pos"]
    return {
        (blog.kubectl.execute(pod, "application", position), blog.sql(pod, "select text from t order by rowid"))
        for pod in PODS
    }
