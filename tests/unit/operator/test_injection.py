import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from litefs.cli import handoff_command
from litefs.cli.config import load_config
from litefs.cli.config_models import Config
from litefs.cli.node_address import node_address
from litefs_operator import names
from litefs_operator.crd import ClusterSpec
from litefs_operator.errors import RefusedError
from litefs_operator.injection import Cluster, Injected, Installation, inject, revision_of
from litefs_operator.pod_request import cluster_name, wants_sidecar
from litefs_operator.schema import parse

Pod = dict[str, Any]
INSTALLATION = Installation(image="litefs:1", consul_url="http://consul:8500")
APPLICATION_MOUNT = {
    "name": "litefs-mount",
    "mountPath": "/litefs",
    "readOnly": True,
    "mountPropagation": "HostToContainer",
}


def run(pod: Pod, spec: Pod | None = None, labels: dict[str, str] | None = None) -> Injected:
    cluster = Cluster(name="blog", namespace="web", spec=parse(ClusterSpec, spec or {}), namespace_labels=labels or {})
    return inject(pod, cluster, INSTALLATION)


def refusal(pod: Pod, spec: Pod | None = None, labels: dict[str, str] | None = None) -> str:
    before = copy.deepcopy(pod)
    with pytest.raises(RefusedError) as raised:
        run(pod, spec, labels)
    assert pod == before
    assert str(raised.value).endswith(f"({raised.value.reason})")
    return raised.value.reason


def sidecar(injected: Injected) -> Pod:
    found: Pod = next(entry for entry in injected.pod["spec"]["initContainers"] if entry["name"] == "litefs")
    return found


def config(injected: Injected, tmp_path: Path) -> Config:
    """The configuration as the sidecar itself reads it."""
    path = tmp_path / "litefs.yml"
    path.write_text(injected.pod["metadata"]["annotations"]["litefs.io/config"])
    return load_config(path, environment={"POD_IP": "10.1.2.3", "POD_NAME": "blog-0"})


def as_the_api_server_returns_it(pod: Pod) -> Pod:
    """What its plug-ins do to every container between two calls."""
    pod = json.loads(json.dumps(pod))
    account = {
        "name": "kube-api-access-x",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }
    for container in pod["spec"]["initContainers"] + pod["spec"]["containers"]:
        container.setdefault("volumeMounts", []).append(dict(account))
        container["imagePullPolicy"] = "Always"
        container.setdefault("resources", {}).setdefault("limits", {})["memory"] = "1Gi"
    pod["spec"]["volumes"].append({"name": "kube-api-access-x", "projected": {"sources": []}})
    return pod


def test_leaves_the_pod_that_came_as_it_is(pod: Pod) -> None:
    before = copy.deepcopy(pod)
    injected = run(pod)
    injected.pod["spec"]["volumes"][0]["name"] = "changed"
    assert pod == before


def test_adds_a_native_sidecar_whose_mount_the_application_sees(pod: Pod) -> None:
    injected = run(pod)
    container = sidecar(injected)
    assert container["restartPolicy"] == "Always"
    assert container["image"] == "litefs:1"
    assert container["securityContext"]["privileged"] is True
    assert container["securityContext"]["runAsUser"] == 0
    assert {"name": "litefs-data", "mountPath": "/var/lib/litefs"} in container["volumeMounts"]
    propagation = {mount["name"]: mount.get("mountPropagation") for mount in container["volumeMounts"]}
    assert propagation["litefs-mount"] == "Bidirectional"
    assert APPLICATION_MOUNT in injected.pod["spec"]["containers"][0]["volumeMounts"]
    assert injected.pod["metadata"]["labels"] == {"app": "blog", "litefs.io/cluster": "blog"}
    assert injected.pod["metadata"]["annotations"]["litefs.io/status"] == "injected"
    assert injected.warnings == ()


def test_before_its_end_the_sidecar_hands_the_lease_over_at_the_port_it_listens_on(pod: Pod) -> None:
    command = sidecar(run(pod, {"http": {"port": 20303}}))["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["litefs", "handoff"]
    arguments = handoff_command.USAGE.parse(command[2:])
    assert node_address(arguments).url == "http://localhost:20303"
    assert arguments.switches == {"leave"}


@pytest.mark.parametrize(
    "spec", [{"log": {"debug": True}}, {"sidecar": {"image": "litefs:2"}}, {"durability": "every-commit"}]
)
def test_the_revision_is_another_one_when_pods_would_be_made_otherwise(spec: Pod) -> None:
    plain = revision_of(ClusterSpec(), INSTALLATION)
    assert revision_of(parse(ClusterSpec, spec), INSTALLATION) != plain
    assert revision_of(ClusterSpec(), dataclasses.replace(INSTALLATION, image="litefs:2")) != plain


def test_the_revision_leaves_out_what_pods_have_no_part_of(pod: Pod) -> None:
    ports = [{"name": "web", "port": 80}]
    spec = parse(ClusterSpec, {"service": {"ports": ports}, "disruptionBudget": False})
    written = run(pod).pod["metadata"]["annotations"]["litefs.io/revision"]
    assert revision_of(spec, INSTALLATION) == written


def test_the_sidecar_loads_the_configuration(pod: Pod, tmp_path: Path) -> None:
    loaded = config(run(pod), tmp_path)
    assert loaded.fuse.dir == "/litefs-mount/data"
    assert loaded.fuse.allow_other
    assert loaded.http.addr == ":20202"
    assert loaded.lease.advertise_url == "http://10.1.2.3:20202"
    assert loaded.lease.hostname == "blog-0"
    assert loaded.lease.candidate
    assert (loaded.lease.consul.url, loaded.lease.consul.key) == ("http://consul:8500", "litefs/web/blog")


def test_every_key_of_the_spec_reaches_the_sidecar(pod: Pod, tmp_path: Path) -> None:
    spec = {
        "lease": {"consul": {"url": "https://c:8501/p", "key": "k/x", "ttl": "15s", "lockDelay": "2s"}},
        "data": {"retention": "1h", "replicaRetention": "2h", "replicaRetentionSize": "3MB", "compress": False},
        "http": {"port": 3000},
        "durability": "every-commit",
        "metrics": {"scrape": True},
        "log": {"format": "json", "debug": True},
        "mount": {"path": "/srv/db", "lowLatency": True},
    }
    injected = run(pod, spec)
    loaded = config(injected, tmp_path)
    consul = loaded.lease.consul
    assert (consul.url, consul.key, consul.ttl, consul.lock_delay) == ("https://c:8501/p", "k/x", 15, 2)
    assert (loaded.data.retention, loaded.data.compress) == (3600, False)
    assert loaded.data.durability == "every-commit"
    assert loaded.http.open_metrics
    assert (loaded.data.replica_retention, loaded.data.replica_retention_size) == (7200, 3 << 20)
    assert loaded.http.port == 3000
    assert loaded.log.format == "json"
    assert loaded.log.debug
    assert loaded.fuse.low_latency
    assert loaded.fuse.dir == "/litefs-mount/db"
    assert sidecar(injected)["startupProbe"]["httpGet"]["port"] == 3000
    assert {**APPLICATION_MOUNT, "mountPath": "/srv"} in injected.pod["spec"]["containers"][0]["volumeMounts"]


def test_a_pod_with_a_name_in_the_nodes_service_advertises_it(pod: Pod, tmp_path: Path) -> None:
    pod["spec"]["subdomain"] = "blog-nodes"
    assert config(run(pod), tmp_path).lease.advertise_url == "http://blog-0.blog-nodes.web.svc:20202"


@pytest.mark.parametrize(("name", "is_primary"), [("blog-0", True), ("blog-1", False), (None, False)])
def test_a_static_lease_names_the_primary(pod: Pod, tmp_path: Path, name: str | None, is_primary: bool) -> None:
    pod["spec"]["subdomain"] = "blog-nodes"
    if name is None:
        del pod["metadata"]["name"]
    else:
        pod["metadata"]["name"] = name
    lease = config(run(pod, {"lease": {"type": "static", "static": {"primary": "blog-0"}}}), tmp_path).lease
    assert (lease.type, lease.candidate) == ("static", is_primary)
    assert lease.advertise_url == "http://blog-0.blog-nodes.web.svc:20202"


def test_a_second_call_changes_nothing(pod: Pod) -> None:
    once = run(pod).pod
    assert run(once).pod == once
    returned = as_the_api_server_returns_it(once)
    assert run(returned).pod == returned


def test_a_container_that_came_between_two_calls_gets_the_mount(pod: Pod) -> None:
    once = as_the_api_server_returns_it(run(pod).pod)
    once["spec"]["containers"].append({"name": "late", "image": "late:1"})
    assert run(once).pod["spec"]["containers"][1]["volumeMounts"] == [APPLICATION_MOUNT]


def test_unknown_fields_pass_through(pod: Pod) -> None:
    pod["spec"]["ofTheFuture"] = {"a": [1]}
    pod["spec"]["containers"][0]["ofTheFuture"] = True
    patched = run(pod).pod
    assert patched["spec"]["ofTheFuture"] == {"a": [1]}
    assert patched["spec"]["containers"][0]["ofTheFuture"] is True


def test_init_containers_run_after_the_sidecar_and_see_the_mount(pod: Pod) -> None:
    pod["spec"]["initContainers"] = [{"name": "istio-proxy", "image": "i"}, {"name": "migrate", "image": "m"}]
    containers = run(pod).pod["spec"]["initContainers"]
    assert [entry["name"] for entry in containers] == ["istio-proxy", "litefs", "migrate"]
    assert "volumeMounts" not in containers[0]
    assert containers[2]["volumeMounts"] == [APPLICATION_MOUNT]


def test_only_the_named_containers_get_the_mount(pod: Pod) -> None:
    pod["spec"]["containers"].append({"name": "other", "image": "o"})
    pod["metadata"]["annotations"]["litefs.io/containers"] = "other"
    containers = run(pod).pod["spec"]["containers"]
    assert APPLICATION_MOUNT not in containers[0]["volumeMounts"]
    assert containers[1]["volumeMounts"] == [APPLICATION_MOUNT]


def test_annotations_win_over_the_cluster(pod: Pod, tmp_path: Path) -> None:
    pod["spec"]["volumes"].append({"name": "disk", "ephemeral": {}})
    pod["metadata"]["annotations"] |= {
        "litefs.io/mount-path": "/a/b/c",
        "litefs.io/data-volume": "disk",
        "litefs.io/candidate": "false",
        "litefs.io/image": "mine:2",
        "litefs.io/log-debug": "true",
        "litefs.io/cpu-request": "0",
        "litefs.io/memory-limit": "1Gi",
    }
    injected = run(pod, {"sidecar": {"image": "theirs:1"}, "mount": {"path": "/x/y"}})
    loaded = config(injected, tmp_path)
    assert (loaded.fuse.dir, loaded.lease.candidate, loaded.log.debug) == ("/litefs-mount/c", False, True)
    container = sidecar(injected)
    assert container["image"] == "mine:2"
    assert container["resources"] == {"requests": {"memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    assert {"name": "disk", "mountPath": "/var/lib/litefs"} in container["volumeMounts"]
    assert injected.pod["spec"]["containers"][0]["volumeMounts"][-1]["mountPath"] == "/a/b"


@pytest.mark.parametrize(
    ("rule", "change", "is_candidate"),
    [
        ({}, {}, True),
        ({}, {"ownerReferences": [{"kind": "Job"}]}, False),
        ({"rule": "ordinals", "below": 1}, {}, True),
        ({"rule": "ordinals", "below": 1}, {"name": "blog-1"}, False),
        ({"rule": "ordinals", "below": 1}, {"name": "x", "labels": {"apps.kubernetes.io/pod-index": "0"}}, True),
        ({"rule": "ordinals", "below": 1}, {"name": "blog-x7f"}, False),
        ({"rule": "labels", "matchLabels": {"app": "blog"}}, {}, True),
        ({"rule": "labels", "matchLabels": {"app": "blog", "big": "yes"}}, {}, False),
    ],
)
def test_the_rule_says_who_is_a_candidate(pod: Pod, tmp_path: Path, rule: Pod, change: Pod, is_candidate: bool) -> None:
    pod["metadata"].update(change)
    assert config(run(pod, {"candidates": rule}), tmp_path).lease.candidate is is_candidate


def test_secrets_of_consul_are_named_and_not_copied(pod: Pod) -> None:
    consul = {"tokenSecretRef": {"name": "acl"}, "caSecretRef": {"name": "ca", "key": "tls.crt"}}
    injected = run(pod, {"lease": {"consul": consul}})
    variables = {entry["name"]: entry for entry in sidecar(injected)["env"]}
    assert variables["CONSUL_HTTP_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "acl", "key": "token"}
    assert variables["CONSUL_CACERT"]["value"] == "/etc/litefs-consul/ca.crt"
    assert variables["LITEFS_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "blog-litefs-token", "key": "token"}
    volume = next(entry for entry in injected.pod["spec"]["volumes"] if entry["name"] == "litefs-consul-ca")
    assert volume["secret"]["items"] == [{"key": "tls.crt", "path": "ca.crt"}]


def test_the_authority_of_consul_is_where_such_secrets_have_it(pod: Pod) -> None:
    injected = run(pod, {"lease": {"consul": {"caSecretRef": {"name": "ca"}}}})
    volume = next(entry for entry in injected.pod["spec"]["volumes"] if entry["name"] == "litefs-consul-ca")
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_data_may_be_ephemeral_where_the_cluster_says_so(pod: Pod) -> None:
    del pod["spec"]["volumes"]
    injected = run(pod, {"data": {"allowEphemeral": True}})
    assert {"name": "litefs-data", "emptyDir": {}} in injected.pod["spec"]["volumes"]
    assert "emptyDir" in injected.warnings[0]
    assert run(injected.pod, {"data": {"allowEphemeral": True}}).pod == injected.pod


def scraping(pod: Pod) -> dict[str, str]:
    annotations: dict[str, str] = pod["metadata"]["annotations"]
    return {key: value for key, value in annotations.items() if key.startswith("prometheus.io/")}


def test_leads_prometheus_to_the_sidecar_where_it_is_asked_to(pod: Pod) -> None:
    assert scraping(run(pod).pod) == {}
    spec = {"metrics": {"scrape": True}, "http": {"port": 3000}}
    injected = run(pod, spec)
    assert scraping(injected.pod) == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "3000",
        "prometheus.io/path": "/metrics",
    }
    assert injected.warnings == ()
    again = run(injected.pod, spec)
    assert (again.pod, again.warnings) == (injected.pod, ())


@pytest.mark.parametrize(
    "own", [{"prometheus.io/scrape": "false"}, {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}]
)
def test_leaves_prometheus_to_the_application_that_has_annotations_of_its_own(pod: Pod, own: dict[str, str]) -> None:
    pod["metadata"]["annotations"].update(own)
    injected = run(pod, {"metrics": {"scrape": True}})
    assert scraping(injected.pod) == own
    assert "prometheus.io" in injected.warnings[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"shareProcessNamespace": True}, "shareProcessNamespace"), ({"runtimeClassName": "kata"}, "runtimeClassName")],
)
def test_warns_of_what_may_surprise(pod: Pod, change: Pod, word: str) -> None:
    pod["spec"].update(change)
    assert word in run(pod).warnings[0]


ANNOTATION_REFUSALS = [
    ({"litefs.io/clutser": "x"}, "UnknownAnnotation"),
    ({"litefs.io/mount-path": "litefs/data"}, "BadMountPath"),
    ({"litefs.io/mount-path": "/data"}, "BadMountPath"),
    ({"litefs.io/mount-path": "/a/.."}, "BadMountPath"),
    ({"litefs.io/mount-path": "/a/b$c"}, "BadMountPath"),
    ({"litefs.io/candidate": "yes"}, "UnknownValue"),
    ({"litefs.io/log-debug": "1"}, "UnknownValue"),
    ({"litefs.io/cpu-limit": "much"}, "UnknownValue"),
    ({"litefs.io/containers": "app,web"}, "ContainerNotFound"),
    ({"litefs.io/data-volume": "disk"}, "DataVolumeNotFound"),
    ({"litefs.io/data-volume": "tmp"}, "DataVolumeShared"),
    ({"litefs.io/mount-path": "/tmp/data"}, "MountPathTaken"),
    ({"litefs.io/status": "done"}, "AnnotationTaken"),
    ({"litefs.io/config": "exec: sh"}, "AnnotationTaken"),
]


@pytest.mark.parametrize(("annotations", "reason"), ANNOTATION_REFUSALS)
def test_refuses_annotations_that_cannot_be(pod: Pod, annotations: dict[str, str], reason: str) -> None:
    pod["metadata"]["annotations"].update(annotations)
    assert refusal(pod) == reason


SPEC_REFUSALS = [
    ({"os": {"name": "windows"}}, "NotLinux"),
    ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "NotLinux"),
    ({"hostUsers": False}, "UserNamespace"),
    ({"hostNetwork": True}, "HostNetwork"),
    ({"containers": [{"name": "litefs"}]}, "ContainerNameTaken"),
    ({"initContainers": [{"name": "litefs", "image": "mine"}]}, "ContainerNameTaken"),
    ({"containers": [{"name": "app", "ports": [{"containerPort": 20202}]}]}, "PortTaken"),
    ({"containers": [{"name": "a", "volumeMounts": [{"name": "t", "mountPath": "/litefs"}]}]}, "MountPathTaken"),
    ({"containers": [{"name": "a", "volumeMounts": [{"name": "t", "mountPath": "/litefs/"}]}]}, "MountPathTaken"),
    ({"containers": [{"name": "a", "volumeMounts": [{"name": "t", "mountPath": "/litefs/data/x"}]}]}, "MountPathTaken"),
    ({"containers": [{"name": "a", "volumeMounts": [{"name": "litefs-mount", "mountPath": "/b"}]}]}, "VolumeNameTaken"),
    ({"containers": [{"name": "a", "volumeMounts": [{"name": "litefs-data", "mountPath": "/b"}]}]}, "DataVolumeShared"),
    ({"volumes": []}, "DataNotPersistent"),
    ({"volumes": [{"name": "litefs-data", "emptyDir": {}}]}, "DataNotPersistent"),
    ({"volumes": [{"name": "litefs-data", "hostPath": {"path": "/etc"}}]}, "DataVolumeKind"),
]


@pytest.mark.parametrize(("change", "reason"), SPEC_REFUSALS)
def test_refuses_pods_that_could_not_work(pod: Pod, change: Pod, reason: str) -> None:
    pod["spec"].update(change)
    assert refusal(pod) == reason


@pytest.mark.parametrize("name", [names.MOUNT_VOLUME, names.CONFIG_VOLUME, names.CONSUL_CA_VOLUME])
def test_refuses_a_volume_under_our_name_that_is_not_ours(pod: Pod, name: str) -> None:
    pod["spec"]["volumes"].append({"name": name, "hostPath": {"path": "/etc"}})
    assert refusal(pod, {"lease": {"consul": {"caSecretRef": {"name": "ca"}}}}) == "VolumeNameTaken"


@pytest.mark.parametrize(("level", "reason"), [("baseline", "PodSecurity"), ("restricted", "PodSecurity")])
def test_refuses_namespaces_that_enforce_pod_security(pod: Pod, level: str, reason: str) -> None:
    assert refusal(pod, labels={"pod-security.kubernetes.io/enforce": level}) == reason
    assert sidecar(run(pod, labels={"pod-security.kubernetes.io/enforce": "privileged"}))


def leaves(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths of everything in the sidecar's container that is not an object or a list."""
    if isinstance(value, dict):
        return list(itertools.chain.from_iterable(leaves(inner, (*path, key)) for key, inner in value.items()))
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(leaves(inner, (*path, at)) for at, inner in enumerate(value)))
    return [path]


def test_refuses_a_sidecar_that_differs_in_anything(pod: Pod) -> None:
    injected = run(pod)
    paths = [path for path in leaves(sidecar(injected)) if path not in (("name",), ("imagePullPolicy",))]
    assert len(paths) > 30
    for path in paths:
        changed = copy.deepcopy(injected.pod)
        place: Any = changed["spec"]["initContainers"][0]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "other"
        assert refusal(changed) == "ContainerNameTaken", path


def test_refuses_a_sidecar_with_more_than_ours(pod: Pod) -> None:
    injected = run(pod)
    changes: list[Pod] = [{"envFrom": []}, {"lifecycle": {}}, {"workingDir": "/"}]
    for change in changes:
        changed = copy.deepcopy(injected.pod)
        changed["spec"]["initContainers"][0].update(change)
        assert refusal(changed) == "ContainerNameTaken"
    injected.pod["spec"]["initContainers"][0]["volumeMounts"].append({"name": "tmp", "mountPath": "/usr"})
    assert refusal(injected.pod) == "ContainerNameTaken"


def test_refuses_a_pod_of_another_cluster(pod: Pod) -> None:
    pod["metadata"]["labels"]["litefs.io/cluster"] = "shop"
    assert refusal(pod) == "LabelTaken"


def test_refuses_a_static_primary_without_a_name_in_dns(pod: Pod) -> None:
    lease = {"lease": {"type": "static", "static": {"primary": "blog-0"}}}
    assert refusal(pod, lease) == "PrimaryWithoutName"
    pod["metadata"]["annotations"]["litefs.io/candidate"] = "true"
    assert refusal(pod, lease) == "CandidateWithStaticLease"


def test_refuses_where_there_is_no_consul(pod: Pod) -> None:
    cluster = Cluster(name="blog", namespace="web", spec=ClusterSpec(), namespace_labels={})
    with pytest.raises(RefusedError, match="NoConsul"):
        inject(pod, cluster, Installation(image="litefs:1", consul_url=""))


@pytest.mark.parametrize(("value", "wanted"), [("true", True), ("false", False)])
def test_the_annotation_says_whether_a_sidecar_is_wanted(value: str, wanted: bool) -> None:
    assert wants_sidecar({"litefs.io/inject": value}) is wanted


@pytest.mark.parametrize("value", ["True", "yes", "", "1"])
def test_refuses_other_words_for_true(value: str) -> None:
    with pytest.raises(RefusedError, match="UnknownValue"):
        wants_sidecar({"litefs.io/inject": value})


def test_a_pod_without_annotation_wants_nothing() -> None:
    assert not wants_sidecar({})


def test_refuses_a_pod_that_names_no_cluster() -> None:
    with pytest.raises(RefusedError, match="ClusterNotNamed"):
        cluster_name({"litefs.io/inject": "true"})
