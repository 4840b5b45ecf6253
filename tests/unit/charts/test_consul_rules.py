"""The rules of Consul's ACL that docs/kubernetes.md gives: a real Consul that denies everything else takes them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from litefs.errors import LeaseUnavailableError
from litefs.lease import consul_client, consul_lease
from litefs.lease.lease import Identity
from litefs_operator import consul as operator_consul
from litefs_operator.errors import ConsulDeniedError
from tests.support.consul import ConsulAgent
from tests.support.filesystem_node import REPOSITORY

MANAGER = "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99"
RULE = re.compile(r'^    ((?:key|key_prefix|session_prefix) "[^"]*" \{ policy = "\w+" \})', re.MULTILINE)
KEY = "litefs/web/blog"
OF_OPERATOR, *OF_NODES = (
    rule.replace("NAMESPACE/NAME", "web/blog")
    for rule in RULE.findall((REPOSITORY / "docs" / "kubernetes.md").read_text())
)


def with_prefix(prefix: str) -> list[str]:
    """Returns the rules of nodes for a URL that ends with a prefix."""
    keys = [rule.replace('"litefs/', f'"{prefix}/litefs/') for rule in OF_NODES if rule.startswith("key")]
    return [*keys, *(f'{kind} "{prefix}/litefs" {{ policy = "write" }}' for kind in ("session", "node"))]


@pytest.fixture(scope="module", params=[False, True], ids=["lists what may be read", "lists by a right of its own"])
def strict_agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    agent = ConsulAgent(tmp_path_factory.mktemp("strict"))
    lists = f"enable_key_list_policy = {str(request.param).lower()}"
    agent.configuration = [
        f'acl {{ enabled = true, default_policy = "deny", {lists}, tokens {{ initial_management = "{MANAGER}" }} }}'
    ]
    agent.token = MANAGER
    agent.start()
    yield agent
    agent.stop()


def token_of(agent: ConsulAgent, *rules: str) -> str:
    """Makes a token with these rules and no others."""
    policies = json.loads(agent.request("GET", "/v1/acl/policies"))
    name = f"policy-{len(policies)}"
    agent.request("PUT", "/v1/acl/policy", json.dumps({"Name": name, "Rules": "\n".join(rules)}).encode())
    made = agent.request("PUT", "/v1/acl/token", json.dumps({"Policies": [{"Name": name}]}).encode())
    return str(json.loads(made)["SecretID"])


def node(agent: ConsulAgent, token: str, root: Path, number: int, prefix: str = "") -> consul_lease.ConsulLease:
    address = consul_client.ConsulAddress.parse(agent.url + prefix, {"CONSUL_HTTP_TOKEN": token})
    terms = consul_lease.ConsulTerms(address=address, key=KEY, ttl_s=30.0, lock_delay_s=0.001)
    identity = Identity(node_id=number, hostname=f"blog-{number}", advertise_url="http://10.0.0.1:20202")
    return consul_lease.ConsulLease(terms, identity, root / f"session-{number}")


@pytest.mark.parametrize(
    ("rules", "prefix"), [(OF_NODES, ""), (with_prefix("shared"), "/shared")], ids=["key", "key with a prefix"]
)
def test_the_rules_of_nodes_suffice_for_a_lease_from_its_beginning_to_its_end(
    strict_agent: ConsulAgent, tmp_path: Path, rules: list[str], prefix: str
) -> None:
    token = token_of(strict_agent, *rules)
    first, second = (node(strict_agent, token, tmp_path, number, prefix) for number in (1, 2))
    second.publish(7)
    assert first.acquire()
    first.renew()
    assert [candidate.freshness for candidate in first.candidates()] == [7]
    assert second.take_over(first.hand_off())
    second.release()


@pytest.mark.parametrize("number", range(4))
def test_none_of_the_rules_of_nodes_can_be_left_out(strict_agent: ConsulAgent, tmp_path: Path, number: int) -> None:
    prefix = f"prefix-{number}"  # a node that is in the catalog already would not have to be written
    rules = with_prefix(prefix)
    del rules[number]
    lease = node(strict_agent, token_of(strict_agent, *rules), tmp_path, 1, f"/{prefix}")
    with pytest.raises(LeaseUnavailableError, match="denies access"):
        stand_and_lead(lease)


def stand_and_lead(lease: consul_lease.ConsulLease) -> None:
    lease.publish(1)
    lease.acquire()


def test_the_operator_sees_the_lease_with_its_rule_and_says_so_where_it_may_not(
    strict_agent: ConsulAgent, tmp_path: Path
) -> None:
    lease = node(strict_agent, token_of(strict_agent, *OF_NODES), tmp_path, 1)
    assert lease.acquire()

    def holders(token: str) -> set[str]:
        client = operator_consul.ConsulClient(operator_consul.ConsulAddress.parse(strict_agent.url, token=token))
        return set(client.holders("litefs/", 0, 1.0)[1])

    right = OF_OPERATOR.replace("read", "list")
    assert holders(token_of(strict_agent, right)) == {KEY}
    for token in (token_of(strict_agent, 'key_prefix "other/" { policy = "read" }'), ""):
        with pytest.raises(ConsulDeniedError):
            holders(token)
    lease.release()
