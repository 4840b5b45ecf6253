"""The components of the cluster: their command lines and configuration files, and the volumes of its nodes.

A component that needs another one which is not there yet ends, and is started again by `machine`: so there is no
order to keep.
"""

import json
import sys
from pathlib import Path
from typing import Any

from e2e.layout import KUBELET_ROOT, NODE1, POD_NETWORK, PROGRAMS_LINK, SERVICE_NETWORK, STATE, VOLUMES, Node

_PKI = STATE / "pki"
PAUSE_IMAGE = "localhost/pause:e2e"


def _cni(node: Node) -> str:
    addresses = {"subnet": str(node.pods), "rangeStart": str(node.pods[20]), "gateway": node.address}
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.state / "cni-addresses"),
            "ranges": [[addresses]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": "e2e", "plugins": [bridge]})


def _containerd(node: Node) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox starts otherwise.
    return f"""\
version = 2
root = "{node.state}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "{node.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node.state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def _kubelet(node: Node) -> str:
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{node.containerd_socket}
cgroupDriver: cgroupfs
cgroupRoot: /{node.cgroup}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {_PKI}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {_PKI}/{node.name}.crt
tlsPrivateKeyFile: {_PKI}/{node.name}.key
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
imageGCHighThresholdPercent: 100
clusterDNS: [{NODE1.address}]
clusterDomain: cluster.local
oomScoreAdj: 0
shutdownGracePeriod: 0s
nodeStatusUpdateFrequency: 5s
maxPods: 100
"""


def _proxy(node: Node) -> str:
    return f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {_PKI}/proxy.conf}}
mode: iptables
clusterCIDR: {POD_NETWORK}
hostnameOverride: {node.name}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{minSyncPeriod: 0s, syncPeriod: 30s, localhostNodePorts: false}}
nodePortAddresses: [primary]
oomScoreAdj: 0
"""


_COREFILE = f"""\
.:53 {{
    bind {NODE1.address}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {_PKI}/admin.conf
        ttl 1
    }}
}}
"""


VOLUMES_MAX = 80
"""Claims that a run may make: volumes are made beforehand, and nobody makes more."""


def storage() -> list[dict[str, Any]]:
    """Returns the default StorageClass, and volumes of it; unlike those of a hostPath, they honour fsGroup."""
    metadata = {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata,
        "provisioner": "kubernetes.io/no-provisioner",
        "reclaimPolicy": "Retain",
        "volumeBindingMode": "Immediate",
    }
    return [storage_class, *(volume(f"volume-{number}", NODE1) for number in range(VOLUMES_MAX))]


def volume(name: str, *nodes: Node, **spec: Any) -> dict[str, Any]:
    """Returns a volume that the pods of some nodes can have, as if it were on a disk that all of these reach.

    Args:
        spec: more of it.
    """
    path = VOLUMES / name
    path.mkdir(parents=True)
    on_nodes = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name for node in nodes]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "standard",
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_nodes]}]}},
            **spec,
        },
    }


def write_configuration(node: Node) -> None:
    """Writes the files that `commands` name."""
    for name, text in {
        "cni/10-e2e.conflist": _cni(node),
        "containerd.toml": _containerd(node),
        "kubelet.yaml": _kubelet(node),
        "proxy.yaml": _proxy(node),
        "Corefile": _COREFILE,
    }.items():
        path = node.state / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def commands(node: Node) -> dict[str, list[str]]:
    """Returns the command line of each component of a node, by its name."""
    own = {
        "containerd": ["containerd", "-c", str(node.state / "containerd.toml")],
        "kubelet": [
            *(_program("kubelet"), f"--config={node.state}/kubelet.yaml", f"--kubeconfig={_PKI}/{node.name}.conf"),
            *(f"--root-dir={KUBELET_ROOT}", f"--hostname-override={node.name}", f"--node-ip={node.address}"),
        ],
        "kube-proxy": [_program("kube-proxy"), f"--config={node.state}/proxy.yaml"],
        "enforcer": [sys.executable, "-m", "e2e.enforcer", node.address],
    }
    return {**_control_plane(), **own} if node == NODE1 else own


def _control_plane() -> dict[str, list[str]]:
    etcd_url = "http://127.0.0.1:2379"
    return {
        "etcd": [
            *("etcd", "--data-dir", str(STATE / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        ],
        "kube-apiserver": _api_server(etcd_url),
        "kube-controller-manager": [
            *(_program("kube-controller-manager"), f"--kubeconfig={_PKI}/controllers.conf", "--leader-elect=false"),
            *(f"--service-account-private-key-file={_PKI}/sa.key", f"--root-ca-file={_PKI}/ca.crt"),
            "--use-service-account-credentials",
        ],
        "kube-scheduler": [_program("kube-scheduler"), f"--kubeconfig={_PKI}/scheduler.conf", "--leader-elect=false"],
        "coredns": [_program("coredns"), "-conf", str(STATE / "Corefile")],
    }


def _api_server(etcd_url: str) -> list[str]:
    return [
        *(_program("kube-apiserver"), f"--etcd-servers={etcd_url}", f"--advertise-address={NODE1.address}"),
        *("--secure-port=6443", f"--service-cluster-ip-range={SERVICE_NETWORK}", "--authorization-mode=Node,RBAC"),
        *("--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--enable-aggregator-routing=true"),
        *(f"--tls-cert-file={_PKI}/apiserver.crt", f"--tls-private-key-file={_PKI}/apiserver.key"),
        *(f"--client-ca-file={_PKI}/ca.crt", f"--service-account-key-file={_PKI}/sa.pub"),
        *(
            f"--service-account-signing-key-file={_PKI}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
        ),
        *(f"--kubelet-client-certificate={_PKI}/admin.crt", f"--kubelet-client-key={_PKI}/admin.key"),
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _program(name: str) -> str:
    return str(Path(PROGRAMS_LINK) / name)
