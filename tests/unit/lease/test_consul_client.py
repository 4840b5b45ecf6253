"""What python-consul2 gets wrong, and the ways into a Consul that is locked up."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from litefs.errors import ConfigError, LeaseLostError, LeaseUnavailableError
from litefs.lease.consul_client import ConsulAddress, ConsulClient, Entry
from litefs.lease.consul_lease import ConsulLease, ConsulTerms
from litefs.lease.lease import Identity
from tests.support.consul import ConsulAgent
from tests.support.dripping_peer import HALF_A_HEAD, dripping_peer
from tests.support.litefs_node import free_port
from tests.unit.lease.worlds import identity_of

TOKEN = "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99"
TIMEOUT_S = 20.0


@pytest.mark.parametrize(
    ("url", "base_url", "prefix", "token"),
    [
        ("http://consul", "http://consul:8500", "", ""),
        ("https://consul", "https://consul:8501", "", ""),
        ("http://10.0.0.1:1234/", "http://10.0.0.1:1234", "", ""),
        ("https://:s%2Fcret@[::1]:1/some/prefix/", "https://[::1]:1", "some/prefix", "s/cret"),
    ],
)
def test_an_address_is_read_as_litefs_reads_it(url: str, base_url: str, prefix: str, token: str) -> None:
    address = ConsulAddress.parse(url, {})
    assert (address.base_url, address.prefix, address.token) == (base_url, prefix, token)
    assert (address.verify, address.certificate) == (True, None)


@pytest.mark.parametrize("url", ["", "consul:8500", "ftp://consul", "http://", "http://consul:port", "http://["])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"lease\.consul\.url"):
        ConsulAddress.parse(url, {})


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://:secret/rest@consul", ""),  # a slash that is not escaped ends the address
        ("http://consul", "secret\x01"),
        ("http://consul", "secret word"),
        ("http://:secret%0Aword@consul", ""),
    ],
)
def test_a_token_that_is_none_is_refused_and_not_told(url: str, token: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        ConsulAddress.parse(url, {"CONSUL_HTTP_TOKEN": token})
    assert "secret" not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None  # nor in a traceback


def test_the_newline_behind_a_token_that_was_read_from_a_file_does_not_count() -> None:
    assert ConsulAddress.parse("http://consul", {"CONSUL_HTTP_TOKEN": f"{TOKEN}\n"}).token == TOKEN


def test_consul_s_own_variables_count_where_litefs_counts_them() -> None:
    environment = {
        "CONSUL_HTTP_TOKEN": "t",
        "CONSUL_CACERT": "ca.pem",
        "CONSUL_CLIENT_CERT": "c.pem",
        "CONSUL_CLIENT_KEY": "k.pem",
    }
    address = ConsulAddress.parse("https://consul", environment)
    assert (address.token, address.verify, address.certificate) == ("t", "ca.pem", ("c.pem", "k.pem"))
    assert ConsulAddress.parse("https://:mine@consul", environment).token == "mine"
    assert ConsulAddress.parse("https://consul", {"CONSUL_HTTP_SSL_VERIFY": "false"}).verify is False
    with pytest.raises(ConfigError, match="together"):
        ConsulAddress.parse("https://consul", {"CONSUL_CLIENT_CERT": "c.pem"})


def test_no_variable_overrides_the_address(agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"CONSUL_HTTP_ADDR": "127.0.0.1:1", "CONSUL_HTTP_SSL": "true", "HTTP_PROXY": "http://127.0.0.1:1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = ConsulClient(ConsulAddress.parse(agent.url, {}), TIMEOUT_S)
    assert client.put("variables", b"x")
    assert {name: os.environ[name] for name in variables} == variables


def test_a_session_that_is_gone_is_told_from_a_consul_that_is(agent: ConsulAgent) -> None:
    client = ConsulClient(ConsulAddress.parse(agent.url, {}), TIMEOUT_S)
    session = client.create_session({"TTL": "10s", "Behavior": "delete", "LockDelay": "1ms"})
    assert client.renew_session(session)
    client.destroy_session(session)
    assert not client.renew_session(session)
    with pytest.raises(LeaseLostError):
        client.put("gone", b"x", acquire=session)
    nobody = ConsulClient(ConsulAddress.parse(f"http://127.0.0.1:{free_port()}", {}), TIMEOUT_S)
    with pytest.raises(LeaseUnavailableError, match="refused"):
        nobody.renew_session(session)


@pytest.mark.parametrize("wait_s", [0.0, 0.0004, 0.01])
def test_a_wait_is_as_short_as_it_is_meant(agent: ConsulAgent, wait_s: float) -> None:
    client = ConsulClient(ConsulAddress.parse(agent.url, {}), 1.0)
    client.put("waited-for", b"x")
    index, _ = client.wait_for("waited-for", 0, 0.0)
    assert client.wait_for("waited-for", index, wait_s)[0] == index


def test_a_ttl_that_consul_refuses_is_an_error_with_its_reason(agent: ConsulAgent) -> None:
    client = ConsulClient(ConsulAddress.parse(agent.url, {}), TIMEOUT_S)
    with pytest.raises(LeaseUnavailableError, match="TTL"):
        client.create_session({"TTL": "1ms"})


@pytest.mark.parametrize("left", [b"", bytes(37), b"\xff\xfe", b"half of a session"])
def test_a_file_that_a_crash_left_keeps_nobody_from_the_lease(agent: ConsulAgent, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "session").write_bytes(left)
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key=f"left-{len(left)}", ttl_s=30, lock_delay_s=1)
    lease = ConsulLease(terms, identity_of("a"), tmp_path / "session")
    assert not lease.resume()
    assert lease.acquire()
    lease.release()


def test_a_session_that_was_handed_over_is_not_taken_up_again_though_a_power_cut_brought_its_file_back(
    agent: ConsulAgent, tmp_path: Path
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="given-away", ttl_s=30, lock_delay_s=1)
    a, b = (ConsulLease(terms, identity_of(name), tmp_path / name) for name in "ab")
    assert a.acquire()
    kept = (tmp_path / "a").read_bytes()
    assert b.take_over(a.hand_off())
    (tmp_path / "a").write_bytes(kept)
    assert not ConsulLease(terms, identity_of("a"), tmp_path / "a").resume()
    holder = b.holder()
    assert holder is not None
    assert holder.hostname == identity_of("b").hostname
    b.release()


def test_a_renewal_that_is_overtaken_by_a_handoff_changes_nothing(
    agent: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="overtaken", ttl_s=30, lock_delay_s=0.001)
    a, b = (ConsulLease(terms, identity_of(name), tmp_path / name) for name in "ab")
    assert a.acquire()
    handed: list[str] = []
    get = a._renewing.get

    def hand_off_and_get(key: str) -> Entry | None:
        handed.append(a.hand_off())
        return get(key)

    monkeypatch.setattr(a._renewing, "get", hand_off_and_get)
    a.renew()
    assert (a.term, a.primary_until) == ("", 0.0)

    b.publish(1)  # with a session of its own, which is gone when it is renewed next

    def take_over_and_renew(_session: str) -> bool:
        assert b.take_over(handed[0])
        return False

    monkeypatch.setattr(b._renewing, "renew_session", take_over_and_renew)
    b.renew()
    assert b.term == handed[0]
    b.release()


def test_a_lease_is_taken_over_or_withdrawn_and_never_both(
    agent: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="either", ttl_s=30, lock_delay_s=0.001)
    a, b = (ConsulLease(terms, identity_of(name), tmp_path / name) for name in "ab")
    assert a.acquire()
    lease_id = a.hand_off()
    get = a._asking.get

    def get_then(act: Callable[[], object]) -> Callable[[str], Entry | None]:
        def get_and_act(key: str) -> Entry | None:
            monkeypatch.setattr(a._asking, "get", get)
            entry = get(key)
            act()
            return entry

        return get_and_act

    monkeypatch.setattr(a._asking, "get", get_then(lambda: b.take_over(lease_id)))
    assert not a.withdraw(lease_id)
    b.renew()
    assert b.term == lease_id

    assert b.hand_off() == lease_id
    monkeypatch.setattr(b, "_forget_session", lambda _session: None)  # that request is lost
    monkeypatch.setattr(a._asking, "get", get_then(lambda: b.withdraw(lease_id)))
    assert not a.take_over(lease_id)
    assert (a.term, a.primary_until, a.holder()) == ("", 0.0, None)


@pytest.mark.parametrize("url", ["", "node-1:20202", "http://:20202", "http://node-1:port"])
def test_a_holder_whose_address_is_none_holds_the_lease_and_is_followed_by_nobody(
    agent: ConsulAgent, tmp_path: Path, url: str
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="nowhere", ttl_s=30, lock_delay_s=0.001)
    nowhere = Identity(node_id=1, hostname="b", advertise_url=url)
    other = ConsulLease(terms, nowhere, tmp_path / "other")
    assert other.acquire()
    holder = ConsulLease(terms, identity_of("a"), tmp_path / "session").holder()
    assert holder is not None
    assert holder.advertise_url == ""
    other.release()


def test_what_a_peer_hands_over_is_a_session_and_no_path(agent: ConsulAgent, tmp_path: Path) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="handed", ttl_s=30, lock_delay_s=1)
    client = ConsulClient(terms.address, TIMEOUT_S)
    client.put("precious", b"x")
    lease = ConsulLease(terms, identity_of("a"), tmp_path / "session")
    assert not lease.take_over("../../kv/precious")
    entry = client.get("precious")
    assert entry is not None
    assert entry.value == b"x"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",  # a proxy has stripped the index
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Consul-Index: x\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_an_answer_without_an_index_is_no_error(answer: bytes) -> None:
    with _answering(answer) as url:
        assert ConsulClient(ConsulAddress.parse(url, {}), TIMEOUT_S).wait_for("k", 7, 1.0) == (0, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
        b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[{"a": 1}]',
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No cluster leader\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_whatever_is_wrong_with_an_answer_is_one_error(answer: bytes) -> None:
    with _answering(answer) as url, pytest.raises(LeaseUnavailableError):
        ConsulClient(ConsulAddress.parse(url, {}), TIMEOUT_S).get("k")


@pytest.mark.parametrize(
    "first",
    [HALF_A_HEAD, b"HTTP/1.1 404 Not Found\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["head", "head that says no", "body"],
)
def test_an_answer_that_does_not_end_is_given_up(first: bytes) -> None:
    with dripping_peer(first) as port:
        client = ConsulClient(ConsulAddress.parse(f"http://127.0.0.1:{port}", {}), 0.3)
        for _ in range(2):  # what was given up is not in the way of the next request
            with pytest.raises(LeaseUnavailableError, match=r"no answer within 0\.3 s"):
                client.renew_session("s")


class _answering:  # noqa: N801 - used like a function
    """A server that gives one answer to everybody."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self._answer)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of it for 127.0.0.1, for either side."""
    root = tmp_path_factory.mktemp("certificates")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    sign = ["-CA", "ca.pem", "-CAkey", "ca.key"]
    for command in (
        [*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority"],
        [*new, "-x509", *sign, "-keyout", "node.key", "-out", "node.pem", "-subj", "/CN=node",
         "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"],
    ):  # fmt: skip
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


@pytest.fixture(scope="module")
def locked_agent(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul that wants a certificate and a token."""
    agent = ConsulAgent(tmp_path_factory.mktemp("locked"))
    agent.https_port = free_port()
    agent.configuration = [
        f"ports {{ https = {agent.https_port} }}",
        f'acl {{ enabled = true, default_policy = "deny", tokens {{ initial_management = "{TOKEN}" }} }}',
        f'tls {{ defaults {{ ca_file = "{certificates}/ca.pem", cert_file = "{certificates}/node.pem" }} }}',
        f'tls {{ defaults {{ key_file = "{certificates}/node.key", verify_incoming = true }} }}',
    ]
    agent.token = TOKEN
    agent.start()
    yield agent
    agent.stop()


def test_a_lease_behind_tls_with_client_certificates_and_a_token(
    locked_agent: ConsulAgent, certificates: Path, tmp_path: Path
) -> None:
    environment = {
        "CONSUL_CACERT": f"{certificates}/ca.pem",
        "CONSUL_CLIENT_CERT": f"{certificates}/node.pem",
        "CONSUL_CLIENT_KEY": f"{certificates}/node.key",
    }
    host = f"127.0.0.1:{locked_agent.https_port}"

    def lease(address: ConsulAddress) -> ConsulLease:
        terms = ConsulTerms(address=address, key="locked", ttl_s=30.0, lock_delay_s=0.001)
        return ConsulLease(terms, identity_of("a"), tmp_path / "session")

    good = lease(ConsulAddress.parse(f"https://:{TOKEN}@{host}", environment))
    assert good.acquire()
    good.renew()
    good.release()
    with pytest.raises(LeaseUnavailableError, match="denie"):
        lease(ConsulAddress.parse(f"https://{host}", environment)).acquire()
    for missing in ("CONSUL_CACERT", "CONSUL_CLIENT_CERT"):
        few = {name: value for name, value in environment.items() if not name.startswith(missing[:-5])}
        with pytest.raises(LeaseUnavailableError):
            lease(ConsulAddress.parse(f"https://:{TOKEN}@{host}", few)).acquire()


def test_a_candidacy_that_cannot_be_ended_keeps_nobody_from_leading_and_ends_with_a_handoff(
    agent: ConsulAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="unended", ttl_s=30.0, lock_delay_s=0.001)
    a, b = (ConsulLease(terms, identity_of(name), tmp_path / name) for name in "ab")
    a.publish(1)

    def fail(_key: str) -> NoReturn:
        raise LeaseUnavailableError("no answer")

    monkeypatch.setattr(a._asking, "delete", fail)
    assert a.acquire()
    with pytest.raises(LeaseUnavailableError):
        a.hand_off()
    assert a.term
    monkeypatch.undo()
    assert b.take_over(a.hand_off())
    a.publish(2)
    assert a.is_published
    b.release()


def test_a_node_that_cannot_keep_its_session_on_disk_leads_all_the_same(
    agent: ConsulAgent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    terms = ConsulTerms(address=ConsulAddress.parse(agent.url, {}), key="unkept", ttl_s=30.0, lock_delay_s=0.001)
    lease = ConsulLease(terms, identity_of("a"), tmp_path / "missing" / "session")
    assert lease.acquire()
    assert lease.term
    assert "the session of the lease is not kept: " in caplog.text
    lease.release()
