"""The webhook's CA and certificate: made, judged, and put into a Secret's data. Pure but for keys, which are random.

    Secret    tls.crt, tls.key   the server's certificate and key
              ca.crt             the CA that signed it, and before it the one before, while clients may know only that

Strategy: a CA is made together with each certificate and its key signs nothing else. While certificates change, the
bundle has both CAs, so a client that knows either bundle trusts either server.

Source: RFC 5280; Kubernetes 1.34, WebhookClientConfig.caBundle.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from litefs_operator.errors import CertificateError

VALID = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
"""Time for a person to notice that it is not renewed; CloudNativePG has 90 and 7 days."""
CLOCK_SKEW = timedelta(hours=1)
"""The API server's clock may be behind."""

FIELDS = ("tls.crt", "tls.key", "ca.crt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A certificate and what belongs to it, as PEM.

    Attributes:
        certificate: of the server.
        key: of it.
        authorities: the CA that signed it first, and possibly the one before.
    """

    certificate: bytes
    key: bytes
    authorities: bytes

    def data(self) -> dict[str, str]:
        """Returns the data of a Secret."""
        parts = (self.certificate, self.key, self.authorities)
        return {name: base64.b64encode(part).decode() for name, part in zip(FIELDS, parts, strict=True)}


def read_bundle(data: Mapping[str, str]) -> Bundle:
    """Reads the data of a Secret.

    Raises:
        CertificateError: something is missing, or is no certificate.
    """
    try:
        certificate, key, authorities = (base64.b64decode(data[name]) for name in FIELDS)
        for part in (certificate, authorities):
            x509.load_pem_x509_certificates(part)
        serialization.load_pem_private_key(key, password=None)
    except KeyError as error:
        raise CertificateError(f"the Secret has no {error}") from error
    except (ValueError, TypeError) as error:
        raise CertificateError(f"the Secret has no certificate: {error}") from error
    return Bundle(certificate=certificate, key=key, authorities=authorities)


def needs_renewal(bundle: Bundle, host: str, now: datetime) -> bool:
    """Returns whether a certificate ends soon, or is for another name."""
    certificate = x509.load_pem_x509_certificate(bundle.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc - RENEW_BEFORE <= now or host not in names.get_values_for_type(x509.DNSName)


def make_bundle(host: str, now: datetime, before: Bundle | None = None) -> Bundle:
    """Makes a CA, and a certificate of it.

    Args:
        host: DNS name of the server.
        now: the certificate is valid from a little earlier on.
        before: the one that is replaced; its newest CA stays in the bundle.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    # A CA of its own name each time: two of one name would be tried in turn, and OpenSSL tries the first.
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"litefs-webhook-ca {now:%Y%m%dT%H%M%S%f}")])
    authority = (
        _builder(authority_name, authority_name, authority_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]), authority_name, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    authorities = [authority, *(x509.load_pem_x509_certificates(before.authorities)[:1] if before is not None else [])]
    pem = serialization.Encoding.PEM
    return Bundle(
        certificate=certificate.public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        authorities=b"".join(entry.public_bytes(pem) for entry in authorities),
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
