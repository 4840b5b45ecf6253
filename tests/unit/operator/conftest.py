from typing import Any

import pytest


@pytest.fixture
def pod() -> dict[str, Any]:
    """A pod of a StatefulSet, as it comes to the webhook."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "blog-0",
            "annotations": {"litefs.io/inject": "true", "litefs.io/cluster": "blog"},
            "labels": {"app": "blog"},
        },
        "spec": {
            "containers": [{"name": "app", "image": "blog:1", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                {"name": "litefs-data", "persistentVolumeClaim": {"claimName": "litefs-data-blog-0"}},
            ],
        },
    }
