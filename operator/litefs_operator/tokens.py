"""The tokens by which the nodes of a cluster know each other, made from one key of the installation.

Strategy: a token is a MAC of the cluster's name. So the operator knows every token without reading a Secret of a
user's namespace, and a cluster that is deleted and made again has the token that its running pods have.
"""

import base64
import hashlib
import hmac
import secrets

from litefs_operator import names
from litefs_operator.errors import ConflictError, KubeError, NotFoundError
from litefs_operator.kube import KubeApi, Manifest, object_path

KEY_BYTES = 32
KEY_FIELD = "key"


def cluster_token(key: bytes, namespace: str, name: str) -> str:
    """Returns the token of a cluster: 64 hexadecimal digits."""
    return hmac.new(key, f"{namespace}/{name}".encode(), hashlib.sha256).hexdigest()


def token_manifest(namespace: str, name: str, token: str) -> Manifest:
    """Returns the Secret with a cluster's token. It has no owner: it outlives the LiteFSCluster, as the pods do."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.token_secret(name),
            "namespace": namespace,
            "labels": {names.CLUSTER: name, names.MANAGED_BY: names.OPERATOR},
        },
        "type": "Opaque",
        "stringData": {names.TOKEN_KEY: token},
    }


def read_master_key(kube: KubeApi, namespace: str, name: str) -> bytes:
    """Returns the installation's key from its Secret, which is made if it is not there.

    Raises:
        KubeError: the Secret cannot be read or made, or has no key in it.
        KubeUnavailableError: the API server does not answer.
    """
    collection = object_path("v1", "secrets", namespace)
    path = f"{collection}/{name}"
    try:
        secret = kube.get(path)
    except NotFoundError:
        encoded = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {names.MANAGED_BY: names.OPERATOR}},
            "data": {KEY_FIELD: encoded},
        }
        try:
            secret = kube.create(collection, manifest)
        except ConflictError:  # the other replica was quicker
            secret = kube.get(path)
    key = base64.b64decode((secret.get("data") or {}).get(KEY_FIELD) or "")
    if len(key) < KEY_BYTES // 2:
        raise KubeError(0, f'the Secret {namespace}/{name} has no key of {KEY_BYTES} bytes in "{KEY_FIELD}"')
    return key
