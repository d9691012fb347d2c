"""What is wrong with the files of server.tls is said before anything starts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.authority import OPENSSL, Authority
from vgate.config.schema import Tls
from vgate.config.tls import TlsError, check_tls, is_trusted

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority):
    return [str(path) for path in authority.sign("server")]


def problem(**fields):
    with pytest.raises(TlsError) as raised:
        check_tls(Tls(**{name: str(value) for name, value in fields.items()}))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("with_ca", [False, True])
def test_a_good_pair_says_when_it_expires(authority, pair, with_ca):
    certificate, key = pair
    ca = str(authority.file) if with_ca else None
    expires = check_tls(Tls(certificate=certificate, key=key, client_ca=ca))
    left = expires - datetime.now(UTC)
    assert timedelta(days=1) < left <= timedelta(days=2)


def test_a_chain_is_a_good_certificate(authority, pair, tmp_path):
    certificate, key = pair
    chain = tmp_path / "chain.pem"
    chain.write_bytes(Path(certificate).read_bytes() + authority.file.read_bytes())
    assert check_tls(Tls(certificate=str(chain), key=key))


def test_one_of_the_two_is_missing(pair, tmp_path):
    certificate, key = pair
    assert "server.tls.key is missing" in problem(certificate=certificate)
    assert "server.tls.certificate is missing" in problem(key=key)
    assert "server.tls.certificate is missing" in problem(client_ca=key)
    gone = tmp_path / "gone.pem"
    assert "server.tls.certificate: cannot read" in problem(certificate=gone, key=key)
    assert "server.tls.key: cannot read" in problem(certificate=certificate, key=gone)
    assert "cannot read" in problem(certificate=certificate, key=tmp_path)
    assert "server.tls.client_ca: cannot read" in problem(
        certificate=certificate, key=key, client_ca=gone
    )


def test_the_key_of_another_certificate(authority, pair):
    _, other = authority.sign("other")
    assert f"{other} is not the key of {pair[0]}" in problem(certificate=pair[0], key=other)


def test_files_that_are_something_else(pair, tmp_path):
    certificate, key = pair
    text = tmp_path / "text"
    text.write_text("no PEM")
    assert "in PEM" in problem(certificate=text, key=key)
    assert "in PEM" in problem(certificate=certificate, key=text)
    assert "has no certificates in PEM" in problem(certificate=certificate, key=key, client_ca=text)


def test_an_expired_certificate(authority):
    certificate, key = authority.sign("old", days=-1)
    assert "certificate has expired" in problem(certificate=certificate, key=key)


def test_a_key_with_a_password(authority, pair):
    secret = authority.file.with_name("secret.key")
    authority.run("pkey", "-in", pair[1], "-aes256", "-passout", "pass:x", "-out", secret.name)
    assert "has a password" in problem(certificate=pair[0], key=secret)


def test_who_trusts_it(authority, pair, monkeypatch):
    certificate, key = pair
    tls = Tls(certificate=certificate, key=key)
    assert not is_trusted(tls, "127.0.0.1")
    # As on a machine that has the authority among its own.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert is_trusted(tls, "127.0.0.1")
    assert is_trusted(tls, "localhost")
    assert not is_trusted(tls, "10.0.0.1")
    assert not is_trusted(Tls(certificate=certificate, key="/nowhere"), "127.0.0.1")
