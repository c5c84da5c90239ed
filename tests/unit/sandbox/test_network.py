"""What a network's options mean, and what becomes of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtscope.cli import sandbox_options
from virtscope.errors import UsageError
from virtscope.sandbox import Destination, Forward, Sandbox, network, router

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
DEFAULT4 = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
CONNECTED4 = "eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
ZERO6 = "0" * 32
DEFAULT6 = f"{ZERO6} 00 {ZERO6} 00 fd{'0' * 29}1 00000400 00000003 00000000 00000003     eth0\n"
REJECT6 = f"{ZERO6} 00 {ZERO6} 00 {ZERO6} ffffffff 00000001 00000000 00200200       lo\n"
LINK6 = f"fe80{'0' * 28} 40 {ZERO6} 00 {ZERO6} 00000100 00000001 00000000 00000001     eth0\n"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What was seen of one host is not true of the next."""
    network.outside.cache_clear()
    network.allowed.cache_clear()
    yield
    network.outside.cache_clear()
    network.allowed.cache_clear()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose routes are what the test writes."""
    monkeypatch.setattr(network, "ROUTES", str(tmp_path / "route"))
    monkeypatch.setattr(network, "ROUTES6", str(tmp_path / "ipv6_route"))
    (tmp_path / "route").write_text(HEAD + DEFAULT4)
    (tmp_path / "ipv6_route").write_text(DEFAULT6 + LINK6 + REJECT6)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("example.org:443", Destination("example.org", 443)),
        ("192.0.2.7:53/udp", Destination("192.0.2.7", 53, "udp")),
        ("[2001:db8::1]:80", Destination("2001:db8::1", 80)),
        ("[2001:db8::1]:80/tcp", Destination("2001:db8::1", 80)),
    ],
)
def test_destinations(text: str, meaning: Destination) -> None:
    assert sandbox_options._destination(text) == meaning


@pytest.mark.parametrize(
    "text",
    ["host", ":80", "host:", "host:0", "host:65536", "host:80/sctp", "2001:db8::1:80", "[::1:80", "h:\u0663"],
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        sandbox_options._destination(text)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("8080:80", Forward(8080, 80)),
        ("8053:53/udp", Forward(8053, 53, protocol="udp")),
        ("0.0.0.0:8080:80", Forward(8080, 80, "0.0.0.0")),
        ("[::1]:8080:80", Forward(8080, 80, "::1")),
    ],
)
def test_published_ports(text: str, meaning: Forward) -> None:
    assert sandbox_options._forward(text) == meaning


@pytest.mark.parametrize(
    "text", ["80", "a:80", "80:a", "0:80", "name:80:80", "::1:80:80", "1.2.3:80:80", ":80:80"]
)
def test_what_is_no_published_port(text: str) -> None:
    with pytest.raises(UsageError, match="HOSTPORT:PORT"):
        sandbox_options._forward(text)


def test_the_hosts_way_out(host: Path) -> None:
    assert network.outside() == network.Outside(ipv4=True, ipv6=True)
    (host / "ipv6_route").write_text(LINK6 + REJECT6)
    network.outside.cache_clear()
    assert network.outside() == network.Outside(ipv4=True, ipv6=False)
    (host / "route").write_text(HEAD + CONNECTED4)
    network.outside.cache_clear()
    assert network.outside() == network.Outside(ipv4=True, ipv6=False, interface="eth1")
    (host / "ipv6_route").unlink()  # a kernel without IPv6
    (host / "route").write_text(HEAD)
    network.outside.cache_clear()
    with pytest.raises(UsageError, match="no network interface"):
        network.outside()


def _rules(box: Sandbox) -> list[str]:
    return router.filter_rules(box.definition).splitlines()


def test_the_filter_names_every_address_of_a_name(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del host
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::7", 443, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    box = Sandbox().on("namespaces:").with_network("user", allow=[("far.example", 443)])
    rules = _rules(box)
    assert 'iifname "inside" ip daddr 192.0.2.7 tcp dport 443 accept' in rules
    assert 'iifname "inside" ip6 daddr 2001:db8::7 tcp dport 443 accept' in rules
    assert any("policy drop" in rule for rule in rules)
    written = {str(o[1]): o[5] for o in network.operations(box.definition) if o[0] == "file"}
    assert b"192.0.2.7 far.example\n" in str(written["/run/virtscope/hosts"]).encode()
    assert "nameserver" not in str(written["/run/virtscope/resolv.conf"])


def test_without_a_filter_everything_may_pass() -> None:
    assert not any("drop" in rule for rule in _rules(Sandbox().with_network("user")))


def test_addresses_of_a_family_that_the_host_cannot_reach(host: Path) -> None:
    (host / "ipv6_route").write_text("")
    with pytest.raises(UsageError, match="no route for addresses of its kind"):
        network.check(Sandbox().with_network("user", allow=[("2001:db8::7", 80)]).definition)


def test_name_servers(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers: list[str] = []
    monkeypatch.setattr(network, "_name_servers", lambda: servers)
    assert network.resolvers() == []
    servers[:] = ["127.0.0.53"]
    assert network.resolvers() == [network.RESOLVER]
    servers[:] = ["127.0.0.53", "192.0.2.53", "fe80::1%eth0", "2001:db8::53"]
    assert network.resolvers() == ["192.0.2.53", "2001:db8::53"]
    (host / "ipv6_route").write_text("")
    network.outside.cache_clear()
    assert network.resolvers() == ["192.0.2.53"]


def test_a_rate_is_a_queue_on_both_sides(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del host
    monkeypatch.setattr(router, "_tool", lambda name, **_: name)
    steps = list(router.steps(Sandbox().with_network("user").with_limits(net_rate=1000).definition))
    queues = [step for step in steps if "tbf" in step]
    assert {queue[5] for queue in queues} == {"inside", "uplink"}
    assert all("8000bit" in queue for queue in queues)
