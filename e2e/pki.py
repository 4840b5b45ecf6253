"""Keys, certificates and kubeconfigs of a cluster that lives for a day: made with `openssl`, in half a second."""

from pathlib import Path

from e2e.commands import run
from e2e.layout import API_SERVICE_ADDRESS, NODE1, Node

_CLIENT = "clientAuth"
_SERVER = "serverAuth"
_API_NAMES = (
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,"
    f"IP:127.0.0.1,IP:{API_SERVICE_ADDRESS},IP:{NODE1.address}"
)

_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: e2e, cluster: {{server: "https://{address}:6443", certificate-authority: {root}/ca.crt}}}}]
users: [{{name: user, user: {{client-certificate: {root}/{name}.crt, client-key: {root}/{name}.key}}}}]
contexts: [{{name: e2e, context: {{cluster: e2e, user: user}}}}]
current-context: e2e
"""


def create(root: Path) -> None:
    """Fills a directory: `ca.crt`, `sa.key`, `sa.pub`, and of each client `NAME.key`, `NAME.crt` and `NAME.conf`."""
    root.mkdir(parents=True)
    _key(root / "ca.key")
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-new",
            "-key",
            root / "ca.key",
            "-subj",
            "/CN=e2e-ca",
            "-days",
            "30",
            "-out",
            root / "ca.crt",
        ]
    )
    _key(root / "sa.key")
    run(["openssl", "ec", "-in", root / "sa.key", "-pubout", "-out", root / "sa.pub"])
    _certificate(root, "apiserver", "/CN=kube-apiserver", _SERVER, _API_NAMES)
    clients = {
        "admin": "/O=system:masters/CN=admin",
        "controllers": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
    }
    for name, subject in clients.items():
        _certificate(root, name, subject, _CLIENT)
        _kubeconfig(root, name)


def create_node(root: Path, node: Node) -> None:
    """Adds what a kubelet needs, under the name of its node."""
    subject = f"/O=system:nodes/CN=system:node:{node.name}"
    _certificate(root, node.name, subject, f"{_SERVER},{_CLIENT}", f"DNS:{node.name},IP:{node.address}")
    _kubeconfig(root, node.name)


def _kubeconfig(root: Path, name: str) -> None:
    (root / f"{name}.conf").write_text(_KUBECONFIG.format(address=NODE1.address, root=root, name=name))


def _key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])


def _certificate(root: Path, name: str, subject: str, usage: str, names: str = "") -> None:
    """Args: names: for which a server may use it, as openssl's subjectAltName."""
    key, request, extensions = root / f"{name}.key", root / f"{name}.csr", root / f"{name}.ext"
    _key(key)
    run(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
    lines = ["basicConstraints=CA:FALSE", "keyUsage=digitalSignature,keyEncipherment", f"extendedKeyUsage={usage}"]
    extensions.write_text("\n".join(lines + [f"subjectAltName={names}"] * bool(names)) + "\n")
    authority: list[str | Path] = ["-CA", root / "ca.crt", "-CAkey", root / "ca.key", "-CAcreateserial"]
    signed: list[str | Path] = ["-out", root / f"{name}.crt", "-days", "30", "-extfile", extensions]
    run(["openssl", "x509", "-req", "-in", request, *authority, *signed])
    request.unlink()
    extensions.unlink()
