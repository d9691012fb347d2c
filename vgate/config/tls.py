"""Checks the files of ``server.tls``: the launcher at the start, a frontend before a reload."""

import contextlib
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vgate.config.schema import Tls


class TlsError(Exception):
    """The files can't be used; the message says why and what to do."""


def check_tls(tls: Tls) -> datetime:
    """Return when the certificate expires.

    Raises:
        TlsError: A file is missing or unreadable, the key is another certificate's, or the
            certificate isn't valid now.
    """
    if tls.certificate is None or tls.key is None:
        missing = "certificate" if tls.certificate is None else "key"
        raise TlsError(f"server.tls.{missing} is missing: give both a certificate and its key")
    for name in ("certificate", "key", "client_ca"):
        if (path := getattr(tls, name)) is not None:
            _check_readable(name, path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
    except ssl.SSLError as error:
        raise TlsError(_pair_problem(tls, error)) from None
    if tls.client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.client_ca)
        except ssl.SSLError:
            message = f"server.tls.client_ca: {tls.client_ca} has no certificates in PEM"
            raise TlsError(message) from None
    return _expiry(tls.certificate, server)


def _check_readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise TlsError(f"server.tls.{name}: cannot read {path}: {error.strerror}") from None


def _refuse_password() -> str:
    raise TlsError("server.tls.key: the key has a password; store it without (openssl pkey)")


def _pair_problem(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"server.tls: {tls.key} is not the key of {tls.certificate}"
    return (
        f"server.tls: {tls.certificate} must have a certificate and {tls.key} its key, in PEM "
        f"({error.reason or error})"
    )


def is_trusted(tls: Tls, host: str) -> bool:
    """Whether a client of this machine trusts the certificate as that of a host."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.create_default_context()
    # Python is stricter than other clients since 3.13: it wants the issuer's key identifier.
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        server.load_cert_chain(str(tls.certificate), tls.key)
        _shake_hands(client, server, host)
    except (ssl.SSLError, OSError):
        return False
    return True


def _expiry(certificate: str, server: ssl.SSLContext) -> datetime:
    """Return when a certificate expires: a client that trusts only itself tells."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        shown = _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        message = f"server.tls.certificate: {certificate}: {error.verify_message}"
        raise TlsError(message) from None
    except ssl.SSLError as error:
        message = f"server.tls.certificate: {certificate} can't be used: {error.reason}"
        raise TlsError(message) from None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)


def _shake_hands(
    client: ssl.SSLContext, server: ssl.SSLContext, host: str | None = None
) -> dict[str, Any]:
    """Return the certificate that a client gets, without a network; raise `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):  # flights of a handshake
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert() or {}
