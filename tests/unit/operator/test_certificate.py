import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from litefs_operator.certificate import (
    FIELDS,
    RENEW_BEFORE,
    VALID,
    Bundle,
    make_bundle,
    needs_renewal,
    read_bundle,
)
from litefs_operator.certificate_keeper import SPREAD_S, CertificateKeeper
from litefs_operator.errors import CertificateError
from litefs_operator.options import WebhookOptions
from tests.unit.operator.fake_kube import FakeKube

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOST = "litefs-webhook.litefs.svc"
SECRET = "/api/v1/namespaces/litefs/secrets/litefs-webhook-tls"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/litefs"


def is_trusted(bundle: Bundle, authorities: bytes, tmp_path: Path, host: str = HOST) -> bool:
    """Whether OpenSSL accepts a server with this certificate, as a client that knows these authorities."""
    (tmp_path / "tls.crt").write_bytes(bundle.certificate)
    (tmp_path / "tls.key").write_bytes(bundle.key)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client_context = ssl.create_default_context(cadata=authorities.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does from 3.13 on
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return client.version() == "TLSv1.3"


def test_a_client_that_knows_the_ca_trusts_the_server_under_its_name_alone(tmp_path: Path) -> None:
    bundle = make_bundle(HOST, datetime.now(UTC))
    assert is_trusted(bundle, bundle.authorities, tmp_path)
    assert not is_trusted(bundle, bundle.authorities, tmp_path, host="other.litefs.svc")
    assert not is_trusted(bundle, make_bundle(HOST, datetime.now(UTC)).authorities, tmp_path)


def test_during_a_rotation_each_client_trusts_each_server(tmp_path: Path) -> None:
    old = make_bundle(HOST, datetime.now(UTC))
    new = make_bundle(HOST, datetime.now(UTC), before=old)
    assert is_trusted(old, new.authorities, tmp_path)
    assert is_trusted(new, new.authorities, tmp_path)


def test_a_bundle_keeps_one_ca_of_those_before() -> None:
    bundle = make_bundle(HOST, NOW)
    for _ in range(3):
        bundle = make_bundle(HOST, NOW, before=bundle)
    assert len(x509.load_pem_x509_certificates(bundle.authorities)) == 2


def test_a_bundle_reads_back_from_a_secret() -> None:
    bundle = make_bundle(HOST, NOW)
    assert read_bundle(bundle.data()) == bundle


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "", base64.b64encode(b"nothing").decode()])
def test_a_secret_without_a_certificate_is_refused(field: str, value: str | None) -> None:
    data = {**make_bundle(HOST, NOW).data(), field: value}
    with pytest.raises(CertificateError):
        read_bundle({name: text for name, text in data.items() if text is not None})


def test_a_certificate_is_renewed_a_month_before_its_end_and_for_another_name() -> None:
    bundle = make_bundle(HOST, NOW)
    due = NOW + VALID - RENEW_BEFORE
    assert not needs_renewal(bundle, HOST, NOW)
    assert not needs_renewal(bundle, HOST, due - timedelta(seconds=1))
    assert needs_renewal(bundle, HOST, due)
    assert needs_renewal(bundle, "other.litefs.svc", NOW)


# ---- the keeper ----


def make_keeper(kube: FakeKube, directory: Path) -> CertificateKeeper:
    directory.mkdir(exist_ok=True)
    options = WebhookOptions(
        port=0,
        tls_dir=None,
        certificate_secret="litefs-webhook-tls",
        configuration="litefs",
        service="litefs-webhook",
    )
    return CertificateKeeper(cast("Any", kube), options, "litefs", directory)


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    hooks = [{"name": "inject.litefs.io", "clientConfig": {"service": {"name": "litefs-webhook"}}, "rules": ["kept"]}]
    kube.put(CONFIGURATION, {"metadata": {"name": "litefs"}, "webhooks": hooks})
    return kube


def trusted(kube: FakeKube) -> bytes:
    return base64.b64decode(kube.objects[CONFIGURATION]["webhooks"][0]["clientConfig"]["caBundle"])


def test_the_first_replica_makes_a_certificate_and_the_second_uses_it(kube: FakeKube, tmp_path: Path) -> None:
    first, second = make_keeper(kube, tmp_path / "a"), make_keeper(kube, tmp_path / "b")
    first.step(NOW)
    second.step(NOW)
    assert (tmp_path / "a/tls.crt").read_bytes() == (tmp_path / "b/tls.crt").read_bytes()
    assert trusted(kube) == read_bundle(kube.objects[SECRET]["data"]).authorities
    assert [method for method, _ in kube.written()] == ["POST", "PATCH"]
    assert kube.objects[CONFIGURATION]["webhooks"][0]["rules"] == ["kept"]


def test_the_key_is_for_its_owner_alone(kube: FakeKube, tmp_path: Path) -> None:
    make_keeper(kube, tmp_path / "a").step(NOW)
    assert (tmp_path / "a/tls.key").stat().st_mode & 0o077 == 0


def test_an_existing_secret_is_used_when_another_replica_was_quicker(kube: FakeKube, tmp_path: Path) -> None:
    made = make_bundle(HOST, NOW)

    class LateKube(FakeKube):
        def create(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
            self.put(SECRET, {"metadata": {"name": "litefs-webhook-tls"}, "data": made.data()})
            return super().create(path, manifest)

    late = LateKube()
    late.objects = kube.objects
    make_keeper(late, tmp_path / "a").step(NOW)
    assert (tmp_path / "a/tls.crt").read_bytes() == made.certificate


def test_a_renewed_certificate_is_used_only_when_it_was_trusted_for_a_while(kube: FakeKube, tmp_path: Path) -> None:
    keepers = [make_keeper(kube, tmp_path / name) for name in ("a", "b")]
    for keeper in keepers:
        keeper.step(NOW)
    old = (tmp_path / "a/tls.crt").read_bytes()
    due = NOW + VALID
    for keeper in keepers:
        keeper.step(due)
    renewed = read_bundle(kube.objects[SECRET]["data"])
    assert renewed.certificate != old
    assert trusted(kube) == renewed.authorities
    assert [(tmp_path / name / "tls.crt").read_bytes() for name in ("a", "b")] == [old, old]
    for keeper in keepers:
        keeper.step(due + timedelta(seconds=SPREAD_S))
    assert [(tmp_path / name / "tls.crt").read_bytes() for name in ("a", "b")] == [renewed.certificate] * 2


def test_a_ca_bundle_that_somebody_took_away_comes_back(kube: FakeKube, tmp_path: Path) -> None:
    keeper = make_keeper(kube, tmp_path / "a")
    keeper.step(NOW)
    kube.objects[CONFIGURATION]["webhooks"][0]["clientConfig"].pop("caBundle")
    keeper.step(NOW + timedelta(minutes=1))
    assert trusted(kube) == read_bundle(kube.objects[SECRET]["data"]).authorities


def test_a_secret_with_something_else_in_it_is_not_overwritten(kube: FakeKube, tmp_path: Path) -> None:
    kube.put(SECRET, {"metadata": {"name": "litefs-webhook-tls"}, "data": {"password": "eA=="}})
    with pytest.raises(CertificateError):
        make_keeper(kube, tmp_path / "a").step(NOW)
    assert kube.written() == []


def test_the_ca_may_sign_and_the_certificate_may_not() -> None:
    bundle = make_bundle(HOST, NOW)
    authority = x509.load_pem_x509_certificate(bundle.authorities)
    certificate = x509.load_pem_x509_certificate(bundle.certificate)
    certificate.verify_directly_issued_by(authority)
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.public_bytes(Encoding.PEM) == bundle.certificate
