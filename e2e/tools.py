"""The programs that a cluster consists of: Debian packages, and what is built from Go modules.

Strategy: a tool is a small module under `modules/`, for `go install` refuses modules that replace others. What is
built is kept outside the checkout, under a name that has a hash of the module and the Go version in it, so a change
builds anew and nothing else does. The sources of the modules are copied before they are built: `go` completes go.mod.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.commands import run
from e2e.errors import SetupError

REPOSITORY = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litefs-tools"

KUBERNETES_VERSION = "1.34.4"
KUBE_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

_MODULES = Path(__file__).parent / "modules"
_BUILD_TIMEOUT_S = 3000.0
"""Kubernetes takes nine minutes on two idle cores with empty caches (measured in November 2026)."""

_PACKAGE_OF = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "etcd": "etcd-server",
    "iptables": "iptables",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "unshare": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where the built programs are.

    Attributes:
        programs: a directory with the Kubernetes components under their names, and `coredns`.
        pause: the program of pause containers.
        consul: the Consul server.
        helm: what installs the chart.
        cert_manager: its controllers and its CA injector in one program.
        cert_manager_crds: the definitions that it needs.
    """

    programs: Path
    pause: Path
    consul: Path
    helm: Path
    cert_manager: Path
    cert_manager_crds: Path


def find_tools() -> Tools:
    """Finds every tool, and builds what is missing.

    Raises:
        SetupError: a package is missing, or Go is.
        CommandError: a build failed.
    """
    check_packages()
    kube, coredns, pause = _built("kube", _kube_flags()), _built("coredns"), _built("pause")
    cert_manager = _built("cert-manager")
    programs = CACHE / "e2e-programs"
    programs.mkdir(exist_ok=True)
    for name, target in {**dict.fromkeys(KUBE_PROGRAMS, kube), "coredns": coredns}.items():
        _link(programs / name, target)
    return Tools(
        programs=programs,
        pause=pause,
        consul=_scripted("consul"),
        helm=find_helm(),
        cert_manager=cert_manager,
        cert_manager_crds=_cert_manager_crds(cert_manager),
    )


def find_helm() -> Path:
    """Returns the Helm on the PATH, or builds one.

    Raises:
        CommandError: the build failed.
    """
    return _scripted("helm")


def check_packages() -> None:
    """Raises:
    SetupError: programs of Debian packages are missing; the message is the command that installs them.
    """
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package for program, package in _PACKAGE_OF.items() if not shutil.which(program, path=search)}
    if missing:
        raise SetupError(f"please run: apt-get install --no-install-recommends {' '.join(sorted(missing))}")


def _scripted(name: str) -> Path:
    """What tests without a cluster use as well has a script that finds or builds it."""
    return Path(run([REPOSITORY / "scripts" / name], timeout_s=_BUILD_TIMEOUT_S).strip())


def _kube_flags() -> str:
    """Clients parse the server's version, which is otherwise set by Kubernetes' own build."""
    minor = KUBERNETES_VERSION.split(".")[1]
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
    values |= {"gitCommit": "unknown", "buildDate": "1970-01-01T00:00:00Z"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())


def _built(name: str, flags: str = "") -> Path:
    if not shutil.which("go"):
        raise SetupError("building the cluster's tools needs Go 1.26 on the PATH")
    sources = sorted(path for path in (_MODULES / name).iterdir() if path.suffix in {".go", ".mod"})
    fingerprint = hashlib.sha256(run(["go", "env", "GOVERSION"]).encode() + flags.encode())
    for path in sources:
        fingerprint.update(path.read_bytes())
    out = CACHE / f"{name}-{fingerprint.hexdigest()[:12]}"
    if out.exists():
        return out
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"building {name} from its Go module, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        for path in sources:
            shutil.copy(path, work)
        settings = ["GOFLAGS=-buildvcs=false -trimpath -mod=mod", "GOTOOLCHAIN=local", "CGO_ENABLED=0"]
        build = ["go", "build", "-ldflags", f"-s -w {flags}", "-o", "built", "."]
        run(["env", *settings, *build], cwd=Path(work), timeout_s=_BUILD_TIMEOUT_S)
        # Crash: the name appears only with the whole program behind it.
        (Path(work) / "built").rename(out)
    return out


def _cert_manager_crds(program: Path) -> Path:
    """They are in its module, beside the sources."""
    out = program.with_name(f"{program.name}.yaml")
    if not out.exists():
        required = re.search(r"require (\S+) (\S+)", (_MODULES / "cert-manager" / "go.mod").read_text())
        assert required is not None
        module = json.loads(run(["go", "mod", "download", "-json", "@".join(required.groups())], timeout_s=300.0))
        files = [*Path(module["Dir"], "deploy", "crds").glob("cert-manager.io_*.yaml")]
        fresh = out.with_suffix(".new")
        fresh.write_text("".join(file.read_text() for file in files))
        fresh.rename(out)
    return out


def _link(link: Path, target: Path) -> None:
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.rename(link)
