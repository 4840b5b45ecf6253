from pathlib import Path

import pytest

from litefs_operator.main import EXIT_OK, build_parser, main, read_options
from litefs_operator.options import LogStyle

POD = {"POD_NAME": "litefs-operator-1", "POD_NAMESPACE": "litefs"}
RUN = ["run", "--sidecar-image", "litefs:1"]


def test_crd_prints_the_definition(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crd"]) == EXIT_OK
    assert "kind: CustomResourceDefinition" in capsys.readouterr().out


def test_the_defaults_are_those_of_the_chart() -> None:
    options = read_options(build_parser().parse_args([*RUN, "--manage-certificate"]), POD)
    assert (options.key_secret, options.lease, options.health_port) == ("litefs-operator-key", "litefs-operator", 8080)
    webhook = options.webhook
    assert (webhook.port, webhook.certificate_secret) == (9443, "litefs-webhook-tls")
    assert (webhook.configuration, webhook.service, webhook.tls_dir) == ("litefs", "litefs-webhook", None)
    assert (options.consul_url, options.namespaces, options.log_style) == ("", (), LogStyle.TEXT)


def test_namespaces_may_be_several_and_consuls_secrets_come_from_the_environment() -> None:
    arguments = [*RUN, "--tls-dir", "/tls", "--watch-namespace", "a", "--watch-namespace", "b", "--log-format", "json"]
    environment = {**POD, "CONSUL_HTTP_TOKEN": "t", "CONSUL_CACERT": "/ca.crt"}
    options = read_options(build_parser().parse_args(arguments), environment)
    assert options.namespaces == ("a", "b")
    assert (options.consul_token, options.consul_ca) == ("t", "/ca.crt")
    assert options.webhook.tls_dir == Path("/tls")
    assert options.log_style is LogStyle.JSON


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], POD, "required"),
        (["run", "--tls-dir", "/tls"], POD, "--sidecar-image"),
        (RUN, POD, "--manage-certificate"),
        ([*RUN, "--tls-dir", "/tls", "--manage-certificate"], POD, "exclude"),
        ([*RUN, "--tls-dir", "/tls"], {"POD_NAME": "x"}, "POD_NAMESPACE"),
        ([*RUN, "--tls-dir", "/tls", "--log-format", "xml"], POD, "xml"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_why(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in POD:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
