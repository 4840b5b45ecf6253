"""What the annotations of a pod ask for, with the defaults of its LiteFSCluster.

Strategy: an annotation of ours that is not known, or has a value that is not, is refused: a misspelt one would be an
unreplicated database.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litefs_operator import names
from litefs_operator.crd import CandidateRule, ClusterSpec, LeaseType
from litefs_operator.errors import RefusedError

_MOUNT_PATH = re.compile(r"(/[A-Za-z0-9._-]+){2,}")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGT]i?)?")
_FLAGS = {"true": True, "false": False}
_POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """What one pod is to get.

    Attributes:
        mount_path: directory of the databases in the application's containers.
        data_volume: the volume that the pod names for its data; None if it names none.
        containers: the containers that get the mount; None for all.
        candidate: the pod may become primary; with a static lease, it is the primary.
        image: of the sidecar; None for the cluster's.
        resources: overrides, by kind ("requests", "limits") and name.
        debug: log debug lines.
    """

    mount_path: str
    data_volume: str | None
    containers: frozenset[str] | None
    candidate: bool
    image: str | None
    resources: dict[tuple[str, str], str]
    debug: bool


def wants_sidecar(annotations: Mapping[str, str]) -> bool:
    """Returns whether a pod asks for a sidecar.

    Raises:
        RefusedError: `litefs.io/inject` is neither true nor false.
    """
    return names.INJECT in annotations and _flag(annotations, names.INJECT)


def cluster_name(annotations: Mapping[str, str]) -> str:
    """Returns the name of the pod's LiteFSCluster.

    Raises:
        RefusedError: there is none.
    """
    name = annotations.get(names.CLUSTER, "")
    if not name:
        raise RefusedError(
            "ClusterNotNamed", f"name the pod's LiteFSCluster by the annotation {names.CLUSTER}, in the pod template"
        )
    return name


def controller_of(pod: Mapping[str, Any]) -> str:
    """Returns the uid of the StatefulSet, ReplicaSet or Job that a pod belongs to; "" if to none."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def read_request(pod: Mapping[str, Any], spec: ClusterSpec) -> PodRequest:
    """Reads the annotations of a pod that asks for a sidecar.

    Raises:
        RefusedError: one is unknown, or its value is.
    """
    annotations: Mapping[str, str] = pod["metadata"].get("annotations") or {}
    _refuse_unknown(annotations)
    containers = annotations.get(names.CONTAINERS)
    debug = _flag(annotations, names.LOG_DEBUG) if names.LOG_DEBUG in annotations else spec.log.debug
    return PodRequest(
        mount_path=_mount_path(annotations, spec),
        data_volume=annotations.get(names.DATA_VOLUME),
        containers=None if containers is None else frozenset(name.strip() for name in containers.split(",")),
        candidate=_is_candidate(pod, annotations, spec),
        image=annotations.get(names.IMAGE),
        resources=_resources(annotations),
        debug=debug,
    )


def _flag(annotations: Mapping[str, str], key: str) -> bool:
    value = annotations[key]
    if value not in _FLAGS:
        raise RefusedError("UnknownValue", f'the annotation {key} is "{value}": write "true" or "false"')
    return _FLAGS[value]


def _refuse_unknown(annotations: Mapping[str, str]) -> None:
    prefix = f"{names.GROUP}/"
    for key in annotations:
        if key.startswith(prefix) and key not in names.INPUT_ANNOTATIONS | names.OUTPUT_ANNOTATIONS:
            known = ", ".join(sorted(names.INPUT_ANNOTATIONS))
            raise RefusedError("UnknownAnnotation", f"the annotation {key} is not known; known are {known}")


def _mount_path(annotations: Mapping[str, str], spec: ClusterSpec) -> str:
    path = annotations.get(names.MOUNT_PATH, spec.mount.path)
    if _MOUNT_PATH.fullmatch(path) is None or {".", ".."} & set(path.split("/")):
        raise RefusedError(
            "BadMountPath",
            f'"{path}" cannot be the directory of the databases: it must be absolute and at least two levels deep, '
            "like /litefs/data, because what the image has in its parent is hidden",
        )
    return path


def _resources(annotations: Mapping[str, str]) -> dict[tuple[str, str], str]:
    overrides = {}
    for key, place in names.RESOURCE_ANNOTATIONS.items():
        if key not in annotations:
            continue
        if _QUANTITY.fullmatch(annotations[key]) is None:
            raise RefusedError(
                "UnknownValue", f'the annotation {key} is "{annotations[key]}": write a quantity, or "0"'
            )
        overrides[place] = annotations[key]
    return overrides


def _is_candidate(pod: Mapping[str, Any], annotations: Mapping[str, str], spec: ClusterSpec) -> bool:
    if spec.lease.type is LeaseType.STATIC:
        if names.CANDIDATE in annotations:
            raise RefusedError(
                "CandidateWithStaticLease",
                f"the annotation {names.CANDIDATE} has no meaning where the LiteFSCluster names the primary "
                "(spec.lease.static.primary): remove it",
            )
        assert spec.lease.static is not None
        return bool(pod["metadata"].get("name") == spec.lease.static.primary)
    if names.CANDIDATE in annotations:
        return _flag(annotations, names.CANDIDATE)
    metadata = pod["metadata"]
    if any(owner.get("kind") == "Job" for owner in metadata.get("ownerReferences") or []):
        return False
    labels: Mapping[str, str] = metadata.get("labels") or {}
    rule = spec.candidates
    if rule.rule is CandidateRule.LABELS:
        return (rule.match_labels or {}).items() <= labels.items()
    if rule.rule is CandidateRule.ORDINALS:
        ordinal = labels.get(_POD_INDEX_LABEL) or str(metadata.get("name", "")).rpartition("-")[2]
        return ordinal.isdecimal() and int(ordinal) < (rule.below or 0)
    return True
