"""The chart, rendered in each of its modes: what Kubernetes accepts, and what holds together."""

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

import litefs_operator
from charts.generated import CHART
from litefs_operator.main import build_parser
from litefs_operator.names import PLURAL
from tests.unit.charts.rendering import (
    CA_BUNDLE,
    MODES,
    NAMESPACE,
    NEWEST,
    OLDEST,
    Chart,
    Manifest,
    of_kind,
    pod_templates,
)

FOREIGN_GROUPS = {"cert-manager.io", "monitoring.coreos.com"}
"""Whose schemas Kubernetes does not have."""

modes = pytest.mark.parametrize("values", MODES.values(), ids=MODES.keys())


def operator_arguments(manifests: list[Manifest]) -> list[str]:
    arguments: list[str] = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments


def rules_of(role: Manifest) -> set[tuple[str, str, str, str]]:
    """Each rule as (group, resource, names, verb)."""
    return {
        (group, resource, ",".join(rule.get("resourceNames", [])), verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def expected_rules(text: str) -> set[tuple[str, str, str, str]]:
    """Reads lines of `group resource names verb verb …`, in which - stands for nothing."""
    rules = set()
    for line in filter(str.strip, text.splitlines()):
        group, resource, names, *verbs = ("" if word == "-" else word for word in line.split())
        rules |= {(group, resource, names, verb) for verb in verbs}
    return rules


WATCHED = """
    litefs.io litefsclusters - get list watch
    litefs.io litefsclusters/status - patch
    - pods - list watch patch
    - services - get list watch create patch
    policy poddisruptionbudgets - get list watch create patch delete
    - events - create patch
    - secrets - create
"""
OWN = """
    coordination.k8s.io leases - create
    coordination.k8s.io leases r-litefs-operator get update
    - secrets - create
"""


def test_helm_finds_nothing_to_complain_about(helm: Path) -> None:
    subprocess.run([helm, "lint", "--strict", "--kube-version", NEWEST, CHART], check=True, timeout=60)


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@modes
def test_kubernetes_knows_every_field(chart: Chart, values: Manifest, kubernetes: str) -> None:
    for manifest in chart.render(values, kubernetes=kubernetes):
        if manifest["apiVersion"].partition("/")[0] in FOREIGN_GROUPS:
            continue
        kubernetes_validate.validate(manifest, kubernetes.rpartition(".")[0], strict=True)


@modes
def test_names_are_unique_and_in_the_namespace(chart: Chart, values: Manifest) -> None:
    manifests = chart.render(values)
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in manifests]
    assert len(names) == len(set(names))
    assert {namespace for _, namespace, _ in names} <= {None, NAMESPACE, "blue", "green", "web"}


@modes
def test_every_selector_finds_pods_of_one_kind_and_every_port_is_theirs(chart: Chart, values: Manifest) -> None:
    manifests = chart.render(values)
    templates = pod_templates(manifests)

    def selected(selector: Manifest) -> Manifest:
        found = [one for one in templates if selector.items() <= one["metadata"]["labels"].items()]
        assert len(found) == 1
        return found[0]

    for one in manifests:
        spec = one.get("spec") or {}
        if one["kind"] == "Service":
            ports = {port["name"] for port in selected(spec["selector"])["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if one["kind"] in {"Deployment", "StatefulSet"}:
            assert selected(spec["selector"]["matchLabels"]) is spec["template"]
        if one["kind"] == "PodDisruptionBudget":
            selected(spec["selector"]["matchLabels"])
        if one["kind"] == "NetworkPolicy":
            # By number: OVN-Kubernetes does not know names here.
            ports = {
                port["containerPort"]
                for port in selected(spec["podSelector"]["matchLabels"])["spec"]["containers"][0]["ports"]
            }
            assert {port["port"] for rule in spec["ingress"] for port in rule.get("ports", [])} <= ports


@modes
def test_our_own_pods_need_no_privilege(chart: Chart, values: Manifest) -> None:
    """What Pod Security "restricted" asks for, and a read-only root."""
    for template in pod_templates(chart.render(values)):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@modes
def test_the_operator_understands_its_arguments(chart: Chart, values: Manifest) -> None:
    manifests = chart.render(values)
    parsed = build_parser().parse_args(operator_arguments(manifests))
    assert (parsed.tls_dir is None) == parsed.manage_certificate
    assert parsed.consul_url or values.get("consul", {}).get("mode") == "none"
    configuration = of_kind(manifests, "MutatingWebhookConfiguration")
    assert configuration["webhooks"][0]["clientConfig"]["service"]["name"] == parsed.webhook_service
    if parsed.manage_certificate:
        assert parsed.webhook_configuration == configuration["metadata"]["name"]


@modes
def test_volumes_are_declared_where_they_are_mounted(chart: Chart, values: Manifest) -> None:
    for one in chart.render(values):
        if one["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        pod = one["spec"]["template"]["spec"]
        claims = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
        declared = {volume["name"] for volume in pod["volumes"]} | set(claims)
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == declared


def test_a_release_of_any_name_has_its_own(chart: Chart) -> None:
    names = {
        one["metadata"]["name"] for one in chart.render({}, release="blue") if one["kind"] != "CustomResourceDefinition"
    }
    assert all(name.startswith("blue-litefs") for name in names)
    long = chart.render({"consul": {"replicas": 3}}, release="a-release-with-as-long-a-name-as-helm-takes-53")
    assert all(len(one["metadata"]["name"]) <= 63 for one in long)
    assert of_kind(chart.render({}, release="litefs"), "Service", "-consul")["metadata"]["name"] == "litefs-consul"


def test_the_webhook_is_asked_about_annotated_pods_alone_and_refuses_when_it_is_gone(chart: Chart) -> None:
    webhook = of_kind(chart.render({}), "MutatingWebhookConfiguration")["webhooks"][0]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["sideEffects"] == "NoneOnDryRun"
    assert "'litefs.io/inject' in object.metadata.annotations" in webhook["matchConditions"][0]["expression"]
    assert {tuple(rule["values"]) for rule in webhook["namespaceSelector"]["matchExpressions"]} == {
        ("kube-system",),
        ("disabled",),
    }


def test_a_namespaced_operator_is_asked_about_its_namespaces(chart: Chart) -> None:
    webhook = of_kind(chart.render(MODES["two namespaces"]), "MutatingWebhookConfiguration")["webhooks"][0]
    names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["blue", "green"]}
    assert names in webhook["namespaceSelector"]["matchExpressions"]


@pytest.mark.parametrize(
    ("mode", "bundle"), [("certificates that exist", CA_BUNDLE), ("certificates of the operator", None)]
)
def test_the_api_server_is_told_the_ca_that_is_known(chart: Chart, mode: str, bundle: str | None) -> None:
    webhook = of_kind(chart.render(MODES[mode]), "MutatingWebhookConfiguration")["webhooks"][0]
    assert webhook["clientConfig"].get("caBundle") == bundle


def test_helm_s_certificate_and_the_ca_that_the_api_server_is_told_are_of_one_rendering(chart: Chart) -> None:
    manifests = chart.render({})
    webhook = of_kind(manifests, "MutatingWebhookConfiguration")["webhooks"][0]
    secret = of_kind(manifests, "Secret")
    assert secret["data"]["ca.crt"] == webhook["clientConfig"]["caBundle"]
    volumes = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "tls", "secret": {"secretName": secret["metadata"]["name"]}} in volumes


def test_cert_manager_is_told_where_the_ca_goes(chart: Chart) -> None:
    manifests = chart.render(MODES["certificates of cert-manager"])
    made = {(one["kind"], one["metadata"]["name"]): one["spec"] for one in manifests if is_of_cert_manager(one)}
    served, authority = made["Certificate", "r-litefs-webhook"], made["Certificate", "r-litefs-webhook-ca"]
    annotations = of_kind(manifests, "MutatingWebhookConfiguration")["metadata"]["annotations"]
    assert annotations["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/r-litefs-webhook"
    assert served["dnsNames"] == [f"r-litefs-webhook.{NAMESPACE}.svc"]
    # A renewed certificate is trusted at once: its CA stays, and so does the key of that CA.
    assert made["Issuer", served["issuerRef"]["name"]] == {"ca": {"secretName": authority["secretName"]}}
    assert authority["privateKey"]["rotationPolicy"] == "Never"
    assert made["Issuer", authority["issuerRef"]["name"]] == {"selfSigned": {}}
    assert len(made) == 4


def test_an_issuer_that_is_named_makes_the_certificate_and_no_other(chart: Chart) -> None:
    (certificate,) = filter(is_of_cert_manager, chart.render(MODES["certificates of an issuer"]))
    assert certificate["spec"]["issuerRef"] == {"name": "corporate", "kind": "ClusterIssuer"}


def is_of_cert_manager(manifest: Manifest) -> bool:
    return str(manifest["apiVersion"]).startswith("cert-manager.io/")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"webhook": {"certificates": {"mode": "existing"}}}, "set existing.secretName"),
        ({"webhook": {"certificates": {"existing": {"secretName": "x"}}}}, "set mode to existing"),
        ({"webhook": {"certificates": {"certManager": {"issuerRef": {"name": "x"}}}}}, "set mode to certManager"),
        ({"webhook": {"certificates": {"mode": "maybe"}}}, "/webhook/certificates/mode"),
        ({"consul": {"mode": "external"}}, "set consul.url"),
        ({"consul": {"url": "http://consul.example:8500"}}, "set it to external"),
        ({"consul": {"mode": "none", "tokenSecret": {"name": "x"}}}, "set it to external"),
        ({"consul": {"replicas": 2}}, "/consul/replicas"),
        ({"metrics": {"podMonitor": {"enabled": True}}}, "metrics.podMonitor.clusters"),
        ({"replicas": 2}, "'replicas'"),
        ({"operator": {"replica": 2}}, "'replica'"),
    ],
)
def test_contradictory_and_unknown_values_are_refused_in_words(chart: Chart, values: Manifest, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        chart.render(values)


def test_an_old_kubernetes_is_refused(chart: Chart) -> None:
    with pytest.raises(AssertionError, match=r">=1\.29\.0-0"):
        chart.render({}, kubernetes="1.28.9")


def test_annotated_pods_need_a_sidecar_also_after_an_uninstall_where_kubernetes_can_say_so(chart: Chart) -> None:
    manifests = chart.render({}, kubernetes="1.30.0")
    policy = of_kind(manifests, "ValidatingAdmissionPolicy")
    binding = of_kind(manifests, "ValidatingAdmissionPolicyBinding")
    for kept in (policy, binding):
        assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    kinds = {one["kind"] for one in chart.render({}, kubernetes="1.29.0")}
    assert not any(kind.startswith("ValidatingAdmissionPolicy") for kind in kinds)


def test_the_crd_stays_after_an_uninstall(chart: Chart) -> None:
    crd = of_kind(chart.render({}), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_operator_may_do_what_it_does_and_no_more(chart: Chart) -> None:
    manifests = chart.render({})
    assert rules_of(of_kind(manifests, "ClusterRole")) == expected_rules(
        WATCHED
        + """
    - namespaces - get list watch
    """
    )
    assert rules_of(of_kind(manifests, "Role", "operator")) == expected_rules(
        OWN + "- secrets r-litefs-operator-key get"
    )


def test_every_kind_that_the_operator_s_sources_name_is_granted_and_no_other(chart: Chart) -> None:
    manifests = chart.render(MODES["certificates of the operator"])
    granted = rules_of(of_kind(manifests, "ClusterRole")) | rules_of(of_kind(manifests, "Role", "operator"))
    sources = "".join(path.read_text() for path in Path(litefs_operator.__path__[0]).rglob("*.py"))
    named = set(re.findall(r'"(?:v1|[a-z0-9./]+/v1)", "([a-z]+)"(?!:)|_API, "([a-z]+)"', sources))
    plurals = {first or second for first, second in named} - {"kind"} | {PLURAL, f"{PLURAL}/status"}
    assert {resource for _, resource, _, _ in granted} == plurals


def test_an_operator_that_makes_its_certificate_may_do_that_too(chart: Chart) -> None:
    manifests = chart.render(MODES["certificates of the operator"])
    granted = rules_of(of_kind(manifests, "ClusterRole")) - rules_of(of_kind(chart.render({}), "ClusterRole"))
    assert granted == expected_rules("admissionregistration.k8s.io mutatingwebhookconfigurations r-litefs get patch")
    assert rules_of(of_kind(manifests, "Role", "operator")) == expected_rules(
        OWN
        + """
    - secrets r-litefs-operator-key get
    - secrets r-litefs-webhook-operator-tls get update
    """
    )


def test_a_namespaced_operator_has_rights_in_its_namespaces_alone(chart: Chart) -> None:
    manifests = chart.render(MODES["two namespaces"])
    assert not [one for one in manifests if one["kind"].startswith("ClusterRole")]
    roles = [one for one in manifests if one["kind"] == "Role" and one["metadata"]["name"].endswith("-watch")]
    assert [role["metadata"]["namespace"] for role in roles] == ["blue", "green"]
    assert all(rules_of(role) == expected_rules(WATCHED) for role in roles)
    bindings = [one for one in manifests if one["kind"] == "RoleBinding" and one["metadata"]["name"].endswith("-watch")]
    account = {"kind": "ServiceAccount", "name": "r-litefs-operator", "namespace": NAMESPACE}
    assert [binding["subjects"] for binding in bindings] == [[account], [account]]
    assert [one.removeprefix("--watch-namespace=") for one in operator_arguments(manifests) if "namespace" in one] == [
        "blue",
        "green",
    ]


def test_a_bundled_consul_keeps_its_leases_through_restarts(chart: Chart) -> None:
    configuration = of_kind(chart.render({}), "ConfigMap", "-consul")["data"]["server.hcl"]
    lines = {tuple(line.split()) for line in configuration.splitlines()}
    assert ("leave_on_terminate", "=", "false") in lines
    assert ("disable_update_check", "=", "true") in lines
    assert ("bootstrap_expect", "=", "1") in lines
    assert "retry_join" not in configuration


def test_three_servers_of_consul_find_each_other_and_roll_when_their_configuration_changes(chart: Chart) -> None:
    def annotation(manifests: list[Manifest]) -> Any:
        return of_kind(manifests, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]

    three = chart.render(MODES["three servers of Consul"])
    servers = of_kind(three, "StatefulSet")
    configuration = of_kind(three, "ConfigMap", "-consul")["data"]["server.hcl"]
    for ordinal in range(3):
        assert f'"r-litefs-consul-{ordinal}.{servers["spec"]["serviceName"]}.{NAMESPACE}.svc"' in configuration
    assert of_kind(three, "Service", "-consul-servers")["spec"]["publishNotReadyAddresses"]
    assert of_kind(three, "PodDisruptionBudget", "-consul")["spec"]["maxUnavailable"] == 1
    assert annotation(three) != annotation(chart.render({}))


def test_only_sidecars_the_operator_and_each_other_reach_the_servers_of_consul(chart: Chart) -> None:
    clients, servers = of_kind(chart.render({}), "NetworkPolicy", "-consul")["spec"]["ingress"]
    sidecars, operator = clients["from"]
    assert sidecars == {
        "namespaceSelector": {},
        "podSelector": {"matchExpressions": [{"key": "litefs.io/cluster", "operator": "Exists"}]},
    }
    assert operator["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    assert clients["ports"] == [{"port": 8500}]
    assert servers["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "consul"


def test_an_external_consul_s_secrets_reach_the_operator(chart: Chart) -> None:
    pod = of_kind(chart.render(MODES["external Consul"]), "Deployment")["spec"]["template"]["spec"]
    environment = {one["name"]: one for one in pod["containers"][0]["env"]}
    assert environment["CONSUL_HTTP_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "consul-token", "key": "token"}}
    assert environment["CONSUL_CACERT"]["value"] == "/consul-ca/ca.crt"
    volume = {"secretName": "consul-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert {"name": "consul-ca", "secret": volume} in pod["volumes"]


def test_prometheus_reads_sidecars_with_the_token_of_their_cluster(chart: Chart) -> None:
    monitor = of_kind(chart.render(MODES["everything watched"]), "PodMonitor")
    assert monitor["metadata"]["namespace"] == "web"
    assert monitor["spec"]["selector"] == {"matchLabels": {"litefs.io/cluster": "blog"}}
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    assert endpoint["authorization"] == {"credentials": {"name": "blog-litefs-token", "key": "token"}}


def test_nothing_of_the_prometheus_operator_is_installed_where_there_is_none(chart: Chart) -> None:
    manifests = chart.render(MODES["everything watched"], apis=())
    assert not [one for one in manifests if one["apiVersion"].startswith("monitoring.coreos.com")]
    assert of_kind(manifests, "ConfigMap", "-dashboard")
