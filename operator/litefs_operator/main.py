"""`litefs-operator`: reads the command line, and says by its exit code how it ended.

0    told to stop, or printed what was asked for
1    ended by an error, which the last line of the log names
2    wrong usage; nothing was done
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from litefs_operator.crd import custom_resource_definition
from litefs_operator.options import LogStyle, Options, WebhookOptions, missing_variables

EXIT_OK = 0
EXIT_ERROR = 1

_RUN_EXAMPLES = """\
examples:
  in a pod, with a certificate from a Secret:
    litefs-operator run --sidecar-image ghcr.io/acme/litefs:0.1.0 \\
      --consul-url http://litefs-consul.litefs.svc:8500 --tls-dir /tls
  making its own certificate:
    litefs-operator run --sidecar-image ghcr.io/acme/litefs:0.1.0 --manage-certificate
  on a laptop, with the current kubeconfig, and the webhook unreachable:
    POD_NAME=laptop POD_NAMESPACE=default litefs-operator run --sidecar-image litefs:dev --manage-certificate

environment:
  POD_NAME, POD_NAMESPACE   of the operator's pod, by the downward API; required
  CONSUL_HTTP_TOKEN         ACL token for the Consul of --consul-url: key:read for its leases is enough
  CONSUL_CACERT             file of the CA that signed that Consul's certificate
"""


def crd_yaml() -> str:
    """Returns the text of `manifests/crd.yaml`."""
    head = "# Generated from operator/litefs_operator/crd.py by `make manifests`.\n"
    text: str = yaml.dump(
        custom_resource_definition(), Dumper=_WithoutAnchors, sort_keys=False, width=120, allow_unicode=True
    )
    return head + text


class _WithoutAnchors(yaml.SafeDumper):
    """Writes what occurs twice twice: people read the file, and not every tool reads anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns the exit code."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command == "crd":
        sys.stdout.write(crd_yaml())
        return EXIT_OK
    missing = missing_variables(os.environ)
    if missing:
        parser.error(f"set {' and '.join(missing)}, by the downward API in a pod")
    if not parsed.manage_certificate and parsed.tls_dir is None:
        parser.error("give --tls-dir, or --manage-certificate")
    if parsed.manage_certificate and parsed.tls_dir is not None:
        parser.error("--tls-dir and --manage-certificate exclude each other")
    # Late: it loads kopf, which `crd` and `--help` do not need.
    from litefs_operator.run import run_operator  # noqa: PLC0415

    return EXIT_OK if run_operator(read_options(parsed, os.environ)) else EXIT_ERROR


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="litefs-operator", description="LiteFS for Kubernetes: the operator.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("crd", help="print the CustomResourceDefinition", description="Prints the CRD as YAML.")
    run = commands.add_parser(
        "run",
        help="serve the webhook and look after the LiteFSClusters",
        description="Serves the webhook that injects sidecars. One of the replicas, the holder of --lease, keeps the "
        "Services, disruption budgets, tokens and statuses of the LiteFSClusters.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--sidecar-image", required=True, metavar="IMAGE", help="default image of the sidecars")
    run.add_argument("--consul-url", default="", metavar="URL", help="the installation's Consul; none by default")
    run.add_argument(
        "--watch-namespace",
        action="append",
        default=[],
        metavar="NS",
        help="a namespace to look after, may be repeated; all of them by default",
    )
    run.add_argument("--key-secret", default="litefs-operator-key", metavar="NAME", help="Secret with the master key")
    run.add_argument("--lease", default="litefs-operator", metavar="NAME", help="Lease of the replica that acts")
    run.add_argument("--health-port", type=int, default=8080, metavar="PORT", help="/healthz, /readyz, /metrics")
    run.add_argument("--log-format", choices=[str(style) for style in LogStyle], default=str(LogStyle.TEXT))
    run.add_argument("--debug", action="store_true", help="write debug lines too")
    _add_webhook(run.add_argument_group("webhook"))
    return parser


def _add_webhook(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--webhook-port", type=int, default=9443, metavar="PORT", help="HTTPS, path /inject")
    group.add_argument("--tls-dir", type=Path, metavar="DIR", help="tls.crt and tls.key; read again when they change")
    group.add_argument(
        "--manage-certificate",
        action="store_true",
        help="make CA and certificate, renew them in time, and write the CA into --webhook-configuration",
    )
    group.add_argument("--certificate-secret", default="litefs-webhook-tls", metavar="NAME", help="where to keep them")
    group.add_argument(
        "--webhook-configuration", default="litefs", metavar="NAME", help="the MutatingWebhookConfiguration"
    )
    group.add_argument(
        "--webhook-service", default="litefs-webhook", metavar="NAME", help="Service in front of the operator"
    )


def read_options(parsed: argparse.Namespace, environment: Mapping[str, str]) -> Options:
    """Returns what was parsed, and what the environment adds, as one record."""
    return Options(
        sidecar_image=parsed.sidecar_image,
        consul_url=parsed.consul_url,
        namespaces=tuple(parsed.watch_namespace),
        webhook=WebhookOptions(
            port=parsed.webhook_port,
            tls_dir=parsed.tls_dir,
            certificate_secret=parsed.certificate_secret,
            configuration=parsed.webhook_configuration,
            service=parsed.webhook_service,
        ),
        key_secret=parsed.key_secret,
        lease=parsed.lease,
        health_port=parsed.health_port,
        log_style=LogStyle(parsed.log_format),
        debug=parsed.debug,
        pod_name=environment["POD_NAME"],
        pod_namespace=environment["POD_NAMESPACE"],
        consul_token=environment.get("CONSUL_HTTP_TOKEN", ""),
        consul_ca=environment.get("CONSUL_CACERT", ""),
    )
