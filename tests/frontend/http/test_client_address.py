"""Who the client is behind proxies, and who only says so."""

import pytest

from vgate.frontend.http.client_address import ClientAddresses

PROXIES = ["10.0.0.0/8", "::1", "192.0.2.7"]


def client(peer, trusted=PROXIES, **headers):
    values = {name.replace("_", "-"): list(value) for name, value in headers.items()}
    return ClientAddresses(trusted).of(peer, lambda name: values.get(name, []))


@pytest.mark.parametrize("peer", ["203.0.113.9:4711", "[2001:db8::1]:4711"])
def test_without_trusted_proxies_it_is_who_connects(peer):
    expected = peer.rpartition(":")[0].strip("[]")
    assert client(peer, [], x_forwarded_for=["1.2.3.4"], forwarded=["for=1.2.3.4"]) == expected
    assert client(peer, x_forwarded_for=["1.2.3.4"], forwarded=["for=1.2.3.4"]) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        # A client's own claim is on the left, in one header or in several.
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 192.0.2.7,10.1.1.1"], "203.0.113.9"),
        (["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        (["203.0.113.9:999"], "203.0.113.9"),
        (["[2001:db8::1]:999"], "2001:db8::1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["fe80::1%<b>\x1b[2J"], "fe80::1"),
        (["[fe80::1%eth0]:999"], "fe80::1"),
        # Nothing is read beyond what is no address.
        (["6.6.6.6, unknown"], "10.0.0.1"),
        (['6.6.6.6, evil\n" x, 10.1.1.1'], "10.1.1.1"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
        (["6.6.6.6, " + "10.1.1.1, " * 40 + "10.1.1.2"], "10.1.1.1"),
    ],
)
def test_the_right_most_that_is_no_proxy(header, expected):
    assert client("10.0.0.1:80", x_forwarded_for=header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["for=203.0.113.9"], "203.0.113.9"),
        (['for=6.6.6.6, For="[2001:db8::1]:4711";proto=https;by=10.0.0.1'], "2001:db8::1"),
        (["proto=https;for=203.0.113.9, for=10.1.1.1"], "203.0.113.9"),
        (["for=6.6.6.6, for=_hidden"], "10.0.0.1"),
        (["proto=https"], "10.0.0.1"),
    ],
)
def test_forwarded(header, expected):
    assert client("10.0.0.1:80", forwarded=header) == expected


def test_x_forwarded_for_comes_first():
    headers = {"x_forwarded_for": ["203.0.113.9"], "forwarded": ["for=6.6.6.6"]}
    assert client("[::1]:80", **headers) == "203.0.113.9"


def test_an_ipv4_address_in_ipv6_is_the_same():
    assert client("[::ffff:10.0.0.1]:80", x_forwarded_for=["203.0.113.9"]) == "203.0.113.9"
