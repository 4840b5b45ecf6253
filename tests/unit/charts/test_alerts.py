"""When the alerts of the chart fire, and when they must not, by Prometheus's own tool.

A case is what Prometheus has scraped every 15 seconds, in the notation of `promtool test rules`: `1+2x3` is 1, 3, 5, 7,
`_x3` three scrapes in which nothing came, and `stale` what Prometheus writes when a target, or a series of it, is gone.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from charts.generated import CHART
from tests.unit.charts.rendering import MODES, NAMESPACE, Chart, Manifest, of_kind

SCRAPES_PER_MINUTE = 4

Samples = dict[str, str]
Alert = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Attributes: fired: the alerts that have fired by the minute, by those of the labels below that they have."""

    name: str
    series: Samples
    fired: tuple[Alert, ...] = ()
    minute: int = 60


LABELS = ("alertname", "namespace", "litefs_io_cluster", "pod", "reason")


def minutes(value: int | str, count: float = 120) -> str:
    """A value that stays for so long."""
    return f"{value}x{round(count * SCRAPES_PER_MINUTE) - 1}"


def node(pod: str, *, cluster: str = "blog", namespace: str = "web", job: str = "", **gauges: str) -> Samples:
    """What is scraped of a sidecar, with the labels that the Prometheus operator adds for our PodMonitor."""
    target = f'namespace="{namespace}",pod="{pod}",litefs_io_cluster="{cluster}",job="{job or "PodMonitor"}"'
    return {f"{name}{{{target}}}": samples for name, samples in ({"up": minutes(1)} | gauges).items()}


def counted(metric: str, pod: str, label: str, samples: str) -> Samples:
    """A counter of a sidecar of `blog`."""
    target = f'namespace="web",pod="{pod}",litefs_io_cluster="blog",job="PodMonitor"'
    return {f"litefs_{metric}{{{target}{label and ','}{label}}}": samples}


def operator(pod: str, metric: str, samples: str, label: str = "", namespace: str = NAMESPACE) -> Samples:
    """What is scraped of one of the operator's pods."""
    more = f",{label}" if label else ""
    return {f'litefs_operator_{metric}{{namespace="{namespace}",pod="{pod}",job="r-litefs-operator"{more}}}': samples}


PRIMARY = node("blog-0", litefs_is_primary=minutes(1), litefs_ready=minutes(1), litefs_lag_seconds=minutes(0))
REPLICA = node("blog-1", litefs_is_primary=minutes(0), litefs_ready=minutes(1), litefs_lag_seconds=minutes("0.5"))
LEADER = operator("operator-0", "leader", minutes(1)) | operator("operator-1", "leader", minutes(0))
HEALTHY = PRIMARY | REPLICA | LEADER
BLOG = ("web", "blog")
GONE = f"{minutes(1, 10)} stale _x200"
"""A gauge that was 1 for ten minutes, until its target was gone."""

CASES = [
    Case(name="nothing is wrong", series=HEALTHY),
    Case(name="nothing is scraped but the operator", series=LEADER),
    # ---- LiteFSNoPrimary
    Case(
        # A primary that lost its lease goes on telling its replicas that it is there.
        name="Consul is gone",
        series=LEADER
        | node("blog-0", litefs_is_primary=f"{minutes(1, 10)} {minutes(0)}", litefs_ready=minutes(1))
        | node("blog-1", litefs_is_primary=minutes(0), litefs_ready=minutes(1), litefs_lag_seconds=minutes("0.5")),
        minute=13,
        fired=(("LiteFSNoPrimary", *BLOG),),
    ),
    Case(
        name="the primary's pod is gone, and nobody follows it",
        series=LEADER
        | node("blog-0", up=GONE, litefs_is_primary=GONE)
        | node("blog-1", litefs_is_primary=minutes(0), litefs_lag_seconds=f"{minutes(0, 10)} 15+15x100"),
        minute=13,
        fired=(("LiteFSNoPrimary", *BLOG), ("LiteFSReplicaBehind", *BLOG, "blog-1")),
    ),
    Case(
        name="there was never a primary",
        series=LEADER | node("blog-0", litefs_is_primary=minutes(0)) | node("blog-1", litefs_is_primary=minutes(0)),
        minute=2,
        fired=(("LiteFSNoPrimary", *BLOG),),
    ),
    Case(
        name="a failover takes half a minute",
        series=LEADER
        | node("blog-0", up=GONE, litefs_is_primary=GONE)
        | node("blog-1", litefs_is_primary=f"{minutes(0, 10.5)} {minutes(1)}"),
    ),
    Case(
        name="the primary cannot be read",
        series=LEADER
        | REPLICA
        | node("blog-0", up=f"{minutes(1, 10)} {minutes(0)}", litefs_is_primary=GONE, litefs_ready=GONE),
        minute=20,
        fired=(("LiteFSNoPrimary", *BLOG), ("LiteFSNodeDown", *BLOG, "blog-0")),
    ),
    Case(
        name="another cluster in the same Prometheus has a primary",
        series=HEALTHY
        | node("blog-0", namespace="other", litefs_is_primary=minutes(0))
        | node("shop-0", cluster="shop", litefs_is_primary=minutes(0)),
        minute=60,
        fired=(("LiteFSNoPrimary", "other", "blog"), ("LiteFSNoPrimary", "web", "shop")),
    ),
    Case(name="a cluster of one node", series=LEADER | PRIMARY),
    Case(
        name="the only node of a cluster does not start",
        series=LEADER | node("blog-0", up=f"{minutes(1, 10)} {minutes(0)}", litefs_is_primary=GONE),
        minute=16,
        fired=(("LiteFSNodeDown", *BLOG, "blog-0"),),
    ),
    Case(
        name="a cluster is scaled to none",
        series=LEADER | node("blog-0", up=GONE, litefs_is_primary=GONE, litefs_ready=GONE),
    ),
    Case(name="LiteFS without Kubernetes", series=LEADER | {'litefs_is_primary{instance="a"}': minutes(0)}),
    # ---- LiteFSTwoPrimaries
    Case(
        name="two nodes are primary",
        series=HEALTHY | node("blog-2", litefs_is_primary=minutes(1)),
        minute=6,
        fired=(("LiteFSTwoPrimaries", *BLOG),),
    ),
    Case(
        name="a node is scraped twice",
        series=HEALTHY | node("blog-0", job="annotations", litefs_is_primary=minutes(1)),
    ),
    Case(
        name="two clusters have a primary each",
        series=HEALTHY
        | node("shop-0", cluster="shop", litefs_is_primary=minutes(1))
        | node("blog-0", namespace="other", litefs_is_primary=minutes(1)),
    ),
    Case(
        # Nobody was there to write `stale`.
        name="the primary's node of Kubernetes is drained, and Prometheus with it",
        series=LEADER
        | node("blog-0", up=f"{minutes(1, 10)} _x200", litefs_is_primary=f"{minutes(1, 10)} _x200")
        | node("blog-1", litefs_is_primary=f"{minutes(0, 10)} _x4 {minutes(1)}"),
    ),
    # ---- LiteFSNodeDown
    Case(
        name="a replica does not answer for some minutes",
        series=PRIMARY | LEADER | node("blog-1", up=f"{minutes(1, 10)} {minutes(0, 4)} {minutes(1)}"),
    ),
    Case(
        name="a replica does not answer",
        series=PRIMARY | LEADER | node("blog-1", up=f"{minutes(1, 10)} {minutes(0)}"),
        minute=16,
        fired=(("LiteFSNodeDown", *BLOG, "blog-1"),),
    ),
    # ---- LiteFSNotReady, LiteFSReplicaBehind
    Case(
        name="a replica that was started again never hears the primary",
        series=PRIMARY
        | LEADER
        | node("blog-1", litefs_is_primary=minutes(0), litefs_ready=f"{minutes(1, 10)} {minutes(0)}"),
        minute=21,
        fired=(("LiteFSNotReady", *BLOG, "blog-1"),),
    ),
    Case(
        name="a replica takes nine minutes to catch up",
        series=PRIMARY | LEADER | node("blog-1", litefs_ready=f"{minutes(0, 9)} {minutes(1)}"),
    ),
    Case(
        name="a replica is behind",
        series=PRIMARY | LEADER | node("blog-1", litefs_is_primary=minutes(0), litefs_lag_seconds=minutes(11)),
        minute=2,
        fired=(("LiteFSReplicaBehind", *BLOG, "blog-1"),),
    ),
    Case(
        name="a replica is behind for half a minute",
        series=PRIMARY | LEADER | node("blog-1", litefs_lag_seconds=f"{minutes(11, 0.5)} {minutes(0)}"),
    ),
    # ---- LiteFSReplicaHangs
    Case(
        name="replicas were dropped three times in a quarter of an hour",
        series=HEALTHY | counted("follower_silent_count", "blog-0", "", f"{minutes(0, 10)} 1+0x8 2+0x8 3+0x200"),
        minute=16,
        fired=(("LiteFSReplicaHangs", *BLOG, "blog-0"),),
    ),
    Case(
        name="a replica was dropped twice",
        series=HEALTHY | counted("follower_silent_count", "blog-0", "", f"{minutes(0, 10)} 1+0x8 2+0x200"),
    ),
    Case(
        name="a primary that dropped replicas was started again",
        series=HEALTHY | counted("follower_silent_count", "blog-0", "", f"{minutes(7, 10)} 0+0x200"),
    ),
    # ---- LiteFSLeaseNotRenewed
    Case(
        name="Consul does not answer",
        series=HEALTHY | counted("lease_event_count", "blog-1", 'event="unavailable"', f"{minutes(3, 10)} 4+6x200"),
        minute=14,
        fired=(("LiteFSLeaseNotRenewed", *BLOG, "blog-1"),),
    ),
    Case(
        name="Consul did not answer for half a minute",
        series=HEALTHY
        | counted("lease_event_count", "blog-0", 'event="unavailable"', f"{minutes(0, 10)} 20 {minutes(40)}"),
    ),
    Case(
        name="leases are renewed",
        series=HEALTHY | counted("lease_event_count", "blog-0", 'event="renewals"', "0+6x400"),
    ),
    # ---- LiteFSWritesOnReplica, LiteFSDiskFull
    Case(
        name="an application goes on writing on a replica",
        series=HEALTHY | counted("refused_count", "blog-1", 'reason="not-primary"', "0+1x400"),
        minute=12,
        fired=(("LiteFSWritesOnReplica", *BLOG, "blog-1", "not-primary"),),
    ),
    Case(
        name="an application wrote on a replica while the primary moved",
        series=HEALTHY
        | counted("refused_count", "blog-1", 'reason="not-primary"', f"{minutes(0, 10)} 9 {minutes(12)}"),
    ),
    Case(
        name="other writes are refused",
        series=HEALTHY | counted("refused_count", "blog-1", 'reason="not-captured"', "0+1x400"),
    ),
    Case(
        name="the volume is full",
        series=HEALTHY | counted("refused_count", "blog-0", 'reason="disk-full"', f"{minutes(0, 10)} 1+1x200"),
        minute=12,
        fired=(("LiteFSDiskFull", *BLOG, "blog-0", "disk-full"),),
    ),
    Case(
        name="the volume was full, and the node was started again",
        series=HEALTHY | counted("refused_count", "blog-0", 'reason="disk-full"', f"{minutes(9, 10)} 0+0x200"),
    ),
    # ---- LiteFSSnapshotsAgainAndAgain
    Case(
        name="a replica takes a snapshot every five minutes",
        series=HEALTHY
        | counted(
            "http_frame_send_count",
            "blog-0",
            'type="ltx:snapshot",db="a.db"',
            " ".join(minutes(n, 5) for n in range(12)),
        ),
        minute=45,
        fired=(("LiteFSSnapshotsAgainAndAgain", *BLOG, "blog-0"),),
    ),
    Case(
        name="three new replicas took a snapshot each, and transactions go on",
        series=HEALTHY
        | counted("http_frame_send_count", "blog-0", 'type="ltx:snapshot",db="a.db"', f"1 2 {minutes(3)}")
        | counted("http_frame_send_count", "blog-0", 'type="ltx",db="a.db"', "0+9x400"),
    ),
    # ---- LiteFSOperatorNotActing, LiteFSOperatorCutOff
    Case(
        name="no replica of the operator acts",
        series=operator("operator-0", "leader", minutes(0)) | operator("operator-1", "leader", minutes(0)),
        minute=3,
        fired=(("LiteFSOperatorNotActing",),),
    ),
    Case(
        name="the operator's pods are gone, and another release has its own",
        series=operator("operator-0", "leader", GONE) | operator("other", "leader", minutes(1), namespace="elsewhere"),
        minute=13,
        fired=(("LiteFSOperatorNotActing",),),
    ),
    Case(
        name="the other replica of the operator takes over within a minute",
        series=operator("operator-0", "leader", GONE)
        | operator("operator-1", "leader", f"{minutes(0, 11)} {minutes(1)}"),
    ),
    Case(
        name="a watch of the operator is cut off",
        series=HEALTHY | operator("operator-0", "watch_age_seconds", "0+15x400", 'watch="pods"'),
        minute=5,
        fired=(("LiteFSOperatorCutOff", NAMESPACE, "", "operator-0"),),
    ),
    Case(
        name="a watch of another release's operator is cut off",
        series=HEALTHY | operator("other", "watch_age_seconds", "0+15x400", 'watch="pods"', namespace="elsewhere"),
    ),
    Case(
        name="watches hear something every minute",
        series=HEALTHY | operator("operator-0", "watch_age_seconds", " ".join(["0 15 30 45"] * 40), 'watch="pods"'),
    ),
    # ---- LiteFSPodsRefused: a ReplicaSet tries again after 5 ms, and after twice as long each time, up to 1,000 s.
    Case(
        name="a ReplicaSet's pods are refused",
        series=HEALTHY
        | operator(
            "operator-0", "refusals_total", "12x2 13x7 14x21 14x43 15x66 16x66 17x66 18x66", 'reason="NoCluster"'
        )
        | operator("operator-1", "refusals_total", "13x5 14x10 15x300", 'reason="NoCluster"'),
        minute=40,
        fired=(("LiteFSPodsRefused", NAMESPACE, "", "", "NoCluster"),),
    ),
    Case(
        name="a Deployment was refused until it was corrected, nine minutes later",
        series=HEALTHY | operator("operator-0", "refusals_total", "12x2 13x7 14x21 15x300", 'reason="NoCluster"'),
    ),
    Case(
        name="the operator that refused pods was started again",
        series=HEALTHY | operator("operator-0", "refusals_total", f"{minutes(9, 10)} 0x300", 'reason="NoCluster"'),
    ),
]


@pytest.fixture(scope="session")
def promtool() -> Path:
    program = CHART.parents[1] / "scripts" / "promtool"
    where = subprocess.run([program, "--where"], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    if not Path(where).exists() and os.environ.get("CI") != "true":
        pytest.skip("no promtool: put one on the PATH, or run scripts/promtool")
    return Path(where)


@pytest.fixture(scope="module")
def rules(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the chart, in a file as Prometheus reads them."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(yaml.safe_dump(of_kind(chart.render(MODES["everything watched"]), "PrometheusRule")["spec"]))
    return path


def run(promtool: Path, *words: str | Path) -> None:
    done = subprocess.run([promtool, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def document(rules: Path, case: Case) -> Manifest:
    """A case as `promtool test rules` wants it."""
    fired = f'sum by ({",".join(LABELS)}) (max_over_time(ALERTS{{alertstate="firing"}}[{case.minute}m]))'
    expected = []
    for alert in case.fired:
        labels = ",".join(f'{name}="{value}"' for name, value in zip(LABELS, alert, strict=False) if value)
        expected.append({"labels": f"{{{labels}}}", "value": 1})
    return {
        "rule_files": [str(rules)],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": f"{60 // SCRAPES_PER_MINUTE}s",
                "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
                "promql_expr_test": [{"expr": fired, "eval_time": f"{case.minute}m", "exp_samples": expected}],
            }
        ],
    }


def test_prometheus_takes_the_rules(promtool: Path, rules: Path) -> None:
    run(promtool, "check", "rules", rules)


def test_prometheus_takes_the_queries_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    queries = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool, "check", "rules", path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_those_alerts_fire_and_no_others(promtool: Path, rules: Path, tmp_path: Path, case: Case) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(document(rules, case)))
    run(promtool, "test", "rules", path)


def test_every_alert_fires_in_some_case(rules: Path) -> None:
    known = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    assert {alert[0] for case in CASES for alert in case.fired} == known


def test_an_operator_that_is_not_scraped_is_not_missed(chart: Chart) -> None:
    rule = of_kind(chart.render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule")
    assert [group["name"] for group in rule["spec"]["groups"]] == ["litefs"]
