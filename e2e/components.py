"""The components of the cluster: their command lines and configuration files, and the volumes of its node.

A component that needs another one which is not there yet ends, and is started again by `machine`: so there is no
order to keep.
"""

import json
from pathlib import Path
from typing import Any

from e2e.layout import (
    CGROUP,
    CONTAINERD_SOCKET,
    KUBELET_ROOT,
    NODE,
    NODE_ADDRESS,
    POD_NETWORK,
    PROGRAMS_LINK,
    SERVICE_NETWORK,
    STATE,
    VOLUMES,
)

_PKI = STATE / "pki"
_CNI = STATE / "cni"
PAUSE_IMAGE = "localhost/pause:e2e"

_CNI_CONFIGURATION = {
    "cniVersion": "0.4.0",
    "name": "e2e",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(STATE / "cni-addresses"),
                "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.20", "gateway": NODE_ADDRESS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox starts otherwise.
_CONTAINERD = f"""\
version = 2
root = "{STATE}/containerd"
state = "/run/containerd-state"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{_CNI}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""

_KUBELET = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {_PKI}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {_PKI}/kubelet.crt
tlsPrivateKeyFile: {_PKI}/kubelet.key
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
imageGCHighThresholdPercent: 100
clusterDNS: [{NODE_ADDRESS}]
clusterDomain: cluster.local
oomScoreAdj: 0
shutdownGracePeriod: 0s
nodeStatusUpdateFrequency: 5s
maxPods: 100
"""

_PROXY = f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {_PKI}/proxy.conf}}
mode: iptables
clusterCIDR: {POD_NETWORK}
hostnameOverride: {NODE}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{minSyncPeriod: 0s, syncPeriod: 30s, localhostNodePorts: false}}
nodePortAddresses: [primary]
oomScoreAdj: 0
"""

_COREFILE = f"""\
.:53 {{
    bind {NODE_ADDRESS}
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
    return [storage_class, *(_volume(f"volume-{number}") for number in range(VOLUMES_MAX))]


def _volume(name: str) -> dict[str, Any]:
    path = VOLUMES / name
    path.mkdir(parents=True)
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
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
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }


def write_configuration() -> None:
    """Writes the files that `commands` name."""
    _CNI.mkdir()
    (_CNI / "10-e2e.conflist").write_text(json.dumps(_CNI_CONFIGURATION))
    for name, text in {
        "containerd.toml": _CONTAINERD,
        "kubelet.yaml": _KUBELET,
        "proxy.yaml": _PROXY,
        "Corefile": _COREFILE,
    }.items():
        (STATE / name).write_text(text)


def commands() -> dict[str, list[str]]:
    """Returns the command line of each component, by its name."""
    etcd_url = "http://127.0.0.1:2379"
    return {
        "etcd": [
            *("etcd", "--data-dir", str(STATE / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        ],
        "containerd": ["containerd", "-c", str(STATE / "containerd.toml")],
        "kube-apiserver": _api_server(etcd_url),
        "kube-controller-manager": [
            *(_program("kube-controller-manager"), f"--kubeconfig={_PKI}/controllers.conf", "--leader-elect=false"),
            *(f"--service-account-private-key-file={_PKI}/sa.key", f"--root-ca-file={_PKI}/ca.crt"),
            "--use-service-account-credentials",
        ],
        "kube-scheduler": [_program("kube-scheduler"), f"--kubeconfig={_PKI}/scheduler.conf", "--leader-elect=false"],
        "kubelet": [
            *(_program("kubelet"), f"--config={STATE}/kubelet.yaml", f"--kubeconfig={_PKI}/kubelet.conf"),
            *(f"--root-dir={KUBELET_ROOT}", f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}"),
        ],
        "kube-proxy": [_program("kube-proxy"), f"--config={STATE}/proxy.yaml"],
        "coredns": [_program("coredns"), "-conf", str(STATE / "Corefile")],
    }


def _api_server(etcd_url: str) -> list[str]:
    return [
        *(_program("kube-apiserver"), f"--etcd-servers={etcd_url}", f"--advertise-address={NODE_ADDRESS}"),
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
