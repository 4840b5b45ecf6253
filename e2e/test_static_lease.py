"""Two pods with a fixed primary: an unprivileged application with the ordinary sqlite3 beside our sidecar."""

import os
import signal
import time

import pytest

from e2e import cluster, manifests
from e2e.commands import wait_until
from e2e.errors import CommandError
from e2e.kubectl import GONE_TIMEOUT_S, READY_TIMEOUT_S, Kubectl
from e2e.target import Target

FOLLOW_TIMEOUT_S = 60.0


def sql(kubectl: Kubectl, pod: str, statement: str) -> str:
    """What the sqlite3 program prints in an application's container; it waits for locks, not for mounts."""
    return kubectl.execute(pod, "application", ["sqlite3", "-cmd", ".timeout 5000", manifests.DATABASE, statement])


def answers(kubectl: Kubectl, pod: str, statement: str, expected: str) -> bool:
    try:
        return sql(kubectl, pod, statement).strip() == expected
    except CommandError:
        return False


@pytest.fixture(scope="module")
def _pods(kubectl: Kubectl, target: Target) -> None:
    for name, candidate in (("primary", "true"), ("replica", "false")):
        lease = f"type: static\ncandidate: {candidate}\nhostname: primary\nadvertise-url: http://primary:20202"
        kubectl.apply(
            manifests.configuration(name, lease),
            manifests.service(name),
            manifests.pod(
                name,
                sidecar_image=target.sidecar_image,
                application_image=target.application_image,
                configuration_name=name,
            ),
        )
    kubectl.wait_ready("primary", "replica")
    sql(kubectl, "primary", "create table t(x)")


pytestmark = pytest.mark.usefixtures("_pods")


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_rows_written_in_one_pod_appear_in_the_other(kubectl: Kubectl, journal_mode: str) -> None:
    sql(kubectl, "primary", f"pragma journal_mode={journal_mode}; insert into t values ('{journal_mode}')")
    select = f"select count(*) from t where x = '{journal_mode}'"
    wait_until("the row", lambda: answers(kubectl, "replica", select, "1"), timeout_s=FOLLOW_TIMEOUT_S)
    assert sql(kubectl, "replica", "pragma integrity_check").strip() == "ok"


def test_a_replica_refuses_to_write(kubectl: Kubectl) -> None:
    before = sql(kubectl, "primary", "select count(*) from t")
    with pytest.raises(CommandError, match="readonly database"):
        sql(kubectl, "replica", "insert into t values ('never')")
    assert sql(kubectl, "primary", "select count(*) from t") == before


def test_the_application_cannot_write_beside_the_mount(kubectl: Kubectl) -> None:
    with pytest.raises(CommandError, match="Read-only file system"):
        kubectl.execute("primary", "application", ["sh", "-c", "echo x >/litefs/beside"])


def kill(kubectl: Kubectl, words: str) -> None:
    """Ends the process with these words in its command in each of the two pods.

    Not in others: those of the module before may still end, and a sidecar that is killed then leaves its mount, and
    with it a pod that stays.
    """
    for name in ("primary", "replica"):
        (pid,) = cluster.processes(words, pod_uid=kubectl.get("pod", name)["metadata"]["uid"])
        os.kill(pid, signal.SIGKILL)


def test_the_applications_go_on_when_the_filesystem_processes_are_killed(kubectl: Kubectl, target: Target) -> None:
    if not target.is_own:
        pytest.skip("looks for processes on the node")
    before = kubectl.restarts("primary")
    kill(kubectl, "litefs.cli.filesystem_process")
    insert = "insert into t values ('after the kill'); select 'done'"
    wait_until("a write", lambda: answers(kubectl, "primary", insert, "done"), timeout_s=READY_TIMEOUT_S)
    select = "select count(*) from t where x = 'after the kill'"
    wait_until("the row", lambda: answers(kubectl, "replica", select, "1"), timeout_s=FOLLOW_TIMEOUT_S)
    assert kubectl.restarts("primary") == before


def test_the_applications_go_on_when_the_sidecars_are_killed(kubectl: Kubectl, target: Target) -> None:
    if not target.is_own:
        pytest.skip("looks for processes on the node")
    kill(kubectl, "litefs.cli.supervisor")
    insert = "insert into t values ('after the restart'); select 'done'"
    wait_until("a write", lambda: answers(kubectl, "primary", insert, "done"), timeout_s=READY_TIMEOUT_S)
    select = "select count(*) from t where x = 'after the restart'"
    wait_until("the row", lambda: answers(kubectl, "replica", select, "1"), timeout_s=FOLLOW_TIMEOUT_S)
    kubectl.wait_ready("primary", "replica")
    for name in ("primary", "replica"):
        assert kubectl.restarts(name) == {"litefs": 1, "application": 0}


def test_a_deleted_pod_goes_at_once_and_leaves_no_mount(kubectl: Kubectl, target: Target) -> None:
    uid = kubectl.get("pod", "replica")["metadata"]["uid"]
    start = time.monotonic()
    kubectl("delete", "pod", "replica", f"--timeout={GONE_TIMEOUT_S:.0f}s", timeout_s=GONE_TIMEOUT_S + 10)
    # The grace period of 20 s was not used up: application and sidecar ended by themselves.
    assert time.monotonic() - start < 18
    if target.is_own:
        assert [path for path in cluster.fuse_mounts() if uid in path] == []
