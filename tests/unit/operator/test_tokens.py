import base64
from typing import Any, cast

import pytest

from litefs_operator.errors import KubeError
from litefs_operator.tokens import cluster_token, read_master_key, token_manifest
from tests.unit.operator.fake_kube import FakeKube

PATH = "/api/v1/namespaces/litefs/secrets/litefs-operator-key"


def read(kube: FakeKube) -> bytes:
    return read_master_key(cast("Any", kube), "litefs", "litefs-operator-key")


def test_a_token_is_that_of_one_cluster_under_one_key() -> None:
    token = cluster_token(b"k" * 32, "web", "blog")
    assert token == cluster_token(b"k" * 32, "web", "blog")
    assert len({token, cluster_token(b"l" * 32, "web", "blog"), cluster_token(b"k" * 32, "web", "shop")}) == 3
    assert cluster_token(b"k" * 32, "a", "b") != cluster_token(b"k" * 32, "b", "a")


def test_the_secret_has_no_owner_because_it_outlives_its_cluster() -> None:
    secret = token_manifest("web", "blog", "t")
    assert secret["metadata"]["name"] == "blog-litefs-token"
    assert secret["stringData"] == {"token": "t"}
    assert "ownerReferences" not in secret["metadata"]


def test_the_key_is_made_once() -> None:
    kube = FakeKube()
    key = read(kube)
    assert len(key) == 32
    assert read(kube) == key
    assert kube.written() == [("POST", "/api/v1/namespaces/litefs/secrets")]


def test_of_two_replicas_that_make_the_key_the_second_uses_the_first() -> None:
    made = base64.b64encode(b"m" * 32).decode()

    class LateKube(FakeKube):
        def create(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
            self.put(PATH, {"metadata": {"name": "litefs-operator-key"}, "data": {"key": made}})
            return super().create(path, manifest)

    assert read(LateKube()) == b"m" * 32


@pytest.mark.parametrize("data", [{}, {"key": ""}, {"key": base64.b64encode(b"short").decode()}, {"other": "eA=="}])
def test_a_secret_without_a_key_is_refused_and_left_alone(data: dict[str, str]) -> None:
    kube = FakeKube()
    kube.put(PATH, {"metadata": {"name": "litefs-operator-key"}, "data": data})
    with pytest.raises(KubeError, match="litefs-operator-key"):
        read(kube)
    assert kube.written() == []
