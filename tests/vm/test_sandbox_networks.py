"""The same network from every back end that this host can run: what it reaches, what it does not, and who
reaches into it.

The world outside is a network namespace of the test's own, at the other end of a pair of interfaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.sandboxes import chosen, descendants, runs, usable
from virtscope.errors import SandboxError, UsageError
from virtscope.sandbox import Destination, Forward, Sandbox

EVERY = ("qemu:", "uml:", "namespaces:", "lxc:///system")
HOST, WORLD, HOST6, WORLD6 = "198.51.100.1", "198.51.100.2", "2001:db8:5:7::1", "2001:db8:5:7::2"
ONE, OTHER = 9001, 9002

SERVER = f"""
import socket, threading
def tcp(listener):
    while True:
        client = listener.accept()[0]
        client.sendall(b"tcp")
        client.close()
def udp(server):
    while True:
        data, sender = server.recvfrom(2000)
        server.sendto(b"udp", sender)
threads = []
for port in ({ONE}, {OTHER}):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threads.append(threading.Thread(target=tcp, args=[listener]))
    for family, address in ((socket.AF_INET, "{WORLD}"), (socket.AF_INET6, "{WORLD6}")):
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, port))
        threads.append(threading.Thread(target=udp, args=[server]))
for thread in threads:
    thread.start()
print("ready", flush=True)
"""

PROBE = """
import socket, sys
for place in sys.argv[1:]:
    protocol, address, port = place.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        s = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
        s.settimeout(4)
        s.connect((address, int(port)))
        if protocol == "udp":
            s.send(b"x")
        print(s.recv(100).decode() or "closed")
    except OSError as error:
        print(type(error).__name__)
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def world() -> Iterator[None]:
    """Another machine on another network, as far as anybody can tell."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network to test against")
    name, near, far = f"vst{os.getpid()}", f"vsn{os.getpid()}", f"vsf{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        for where, link, four, six in (([], near, HOST, HOST6), (["-n", name], far, WORLD, WORLD6)):
            _ip(*where, "link", "set", link, "up")
            _ip(*where, "addr", "add", f"{four}/24", "dev", link)
            _ip(*where, "addr", "add", f"{six}/64", "dev", link, "nodad")
        command = ["ip", "netns", "exec", name, sys.executable, "-c", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            try:
                yield
            finally:
                server.kill()
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", near)
        _ip("netns", "del", name)


@pytest.fixture(params=EVERY)
def sandbox(request: pytest.FixtureRequest, daemon: Callable[[str], str], world: None) -> Sandbox:
    del world
    return chosen(request.param, daemon)


@contextlib.contextmanager
def listening(family: socket.AddressFamily, address: str) -> Iterator[int]:
    """A service of this host that answers whoever connects; gives its port."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    client.sendall(b"host")
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def probe(sandbox: Sandbox, *places: tuple[str, str, int]) -> list[str]:
    """What the sandbox gets from each place."""
    words = [f"{protocol},{address},{port}" for protocol, address, port in places]
    result = sandbox.run(["/usr/bin/python3", "-c", PROBE, *words], timeout=120)
    assert result.ok, result
    return result.stdout.decode().split()


def test_everything_outside_and_nothing_of_our_loopback(sandbox: Sandbox) -> None:
    with listening(socket.AF_INET, "127.0.0.1") as port, listening(socket.AF_INET6, "::1") as port6:
        got = probe(
            sandbox.with_network("user"),
            ("tcp", WORLD, ONE),
            ("udp", WORLD, OTHER),
            ("tcp", WORLD6, ONE),
            ("udp", WORLD6, OTHER),
            ("tcp", WORLD, 1),  # nobody listens: says so at once
            ("tcp", WORLD6, 1),
            ("tcp", "127.0.0.1", port),
            ("tcp", "::ffff:127.0.0.1", port),
            ("tcp", "::1", port6),
            ("tcp", "0.0.0.0", port),
            ("tcp", "192.0.0.1", port),
            ("tcp", HOST, port),
            ("tcp", HOST6, port6),
        )
    assert got[:4] == ["tcp", "udp", "tcp", "udp"]
    assert got[4:6] == ["ConnectionRefusedError"] * 2
    assert "host" not in got[6:]


def test_a_firewall_lets_only_what_was_allowed_through(sandbox: Sandbox) -> None:
    allow: list[Destination | tuple[str, int]] = [
        (WORLD, ONE),
        Destination(WORLD, OTHER, "udp"),
        (WORLD6, OTHER),
        Destination(WORLD6, ONE, "udp"),
    ]
    with listening(socket.AF_INET, "0.0.0.0") as port:
        got = probe(
            sandbox.with_network("user", allow=allow),
            ("tcp", WORLD, ONE),
            ("udp", WORLD, OTHER),
            ("tcp", WORLD6, OTHER),
            ("udp", WORLD6, ONE),
            ("tcp", WORLD, OTHER),
            ("udp", WORLD, ONE),
            ("tcp", WORLD6, ONE),
            ("udp", WORLD6, OTHER),
            ("tcp", HOST, port),
            ("tcp", HOST6, port),
            ("tcp", "127.0.0.1", port),
            ("tcp", "192.0.0.1", port),
        )
    assert got[:4] == ["tcp", "udp", "tcp", "udp"]
    assert got[4:] == ["ConnectionRefusedError"] * 8


def test_names(sandbox: Sandbox) -> None:
    result = sandbox.with_network("user").run(
        ["sh", "-c", "cat /etc/resolv.conf; touch /etc/new"], timeout=60
    )
    assert result.status != 0  # the root stays read-only
    wanted = [line for line in Path("/etc/resolv.conf").read_text().splitlines() if "nameserver" in line]
    assert [line for line in result.stdout.decode().splitlines() if "nameserver" in line] == wanted[:3]


GREETER = """
import socket, sys, threading
def udp():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", 53))
    while True:
        data, sender = server.recvfrom(2000)
        server.sendto(b"inside " + data, sender)
listener = socket.create_server(("", 8000))
threading.Thread(target=udp, daemon=True).start()
print("ready", flush=True)
while True:
    client = listener.accept()[0]
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    client.sendall(b"inside %d" % len(data))
    client.close()
"""


def _free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_published_ports_lead_inside(sandbox: Sandbox) -> None:
    tcp, everywhere, udp = _free_port(), _free_port(), _free_port(socket.SOCK_DGRAM)
    box = sandbox.with_network(
        "user",
        allow=[(WORLD, ONE)],  # what comes in is not what goes out
        publish=[(tcp, 8000), Forward(everywhere, 8000, "0.0.0.0"), Forward(udp, 53, protocol="udp")],
    )
    said: list[bytes] = []

    def talk() -> None:
        for address, port in (("127.0.0.1", tcp), (HOST, everywhere), (HOST, tcp)):
            try:
                with socket.create_connection((address, port), timeout=20) as client:
                    client.sendall(bytes(300_000))
                    client.shutdown(socket.SHUT_WR)
                    said.append(client.recv(100))
            except ConnectionRefusedError:
                said.append(b"refused")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.sendto(b"call", ("127.0.0.1", udp))
            said.append(client.recv(100))

    with box as session:
        run = session.start(["/usr/bin/python3", "-c", GREETER])
        session.pump(lambda: bool(run.sinks[0].collected), time.monotonic() + 60)
        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        session.pump(lambda: not thread.is_alive() or run.finished, time.monotonic() + 60, _ticks())
    assert said == [b"inside 300000", b"inside 300000", b"refused", b"inside call"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tcp), timeout=5)


def _ticks() -> int:
    """A descriptor that becomes readable again and again, so that a pump looks at its condition."""
    reader, writer = os.pipe()

    def tick() -> None:
        time.sleep(1)
        os.write(writer, b"x")

    threading.Thread(target=tick, daemon=True).start()
    return reader


def test_a_rate_holds_in_both_directions(sandbox: Sandbox) -> None:
    size, rate = 1 << 20, 800_000
    took: list[float] = []
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            client.sendall(bytes(size))
            began, left = time.monotonic(), size
            while left > 0 and (piece := client.recv(1 << 16)):
                left -= len(piece)
            took.append(time.monotonic() - began)
            client.close()

        threading.Thread(target=serve, daemon=True).start()
        program = (
            "import socket, time\n"
            f"s = socket.create_connection(({HOST!r}, {listener.getsockname()[1]}))\n"
            f"began, left = time.monotonic(), {size}\n"
            "while left: left -= len(s.recv(1 << 16))\n"
            "print(time.monotonic() - began)\n"
            f"s.sendall(bytes({size}))\n"
            "s.recv(1)\n"
        )
        box = sandbox.with_network("user").with_limits(net_rate=rate)
        result = box.run(["/usr/bin/python3", "-c", program], timeout=120)
    assert result.ok, result
    # a burst may pass at once, the rest may not be faster
    least = (size - (1 << 18)) / rate
    assert float(result.stdout) > least
    assert took[0] > least


def test_nothing_is_left_of_a_network_after_kill_minus_nine(sandbox: Sandbox) -> None:
    port = _free_port()
    program = (
        "from virtscope.sandbox import Sandbox\n"
        f"box = Sandbox().on({sandbox.definition.backend!r}).with_network('user', publish=[({port}, 80)])\n"
        "with box as session:\n"
        "    run = session.start(['sleep', '9733'])\n"
        "    session.pump(lambda: run.started)\n"
        "    print('started', flush=True)\n"
        "    session.wait(run)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"started\n"
        children = descendants(victim.pid)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
        victim.send_signal(signal.SIGKILL)
    assert any(name.startswith(("pasta", "passt")) for name in names), names
    deadline = time.monotonic() + 10
    while (alive := {pid for pid in children if runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


# a machine of QEMU's is booted and saved anew for this user
@pytest.mark.parametrize("name", [pytest.param("qemu:", marks=pytest.mark.slow), "uml:", "namespaces:"])
def test_as_an_ordinary_user(name: str, world: None, request: pytest.FixtureRequest) -> None:
    del world
    usable(name)
    program = (
        # all that is loaded late: this interpreter may be in a folder of root's
        "import os, sys, hashlib, json, lzma, pkgutil, shutil, struct, subprocess, tempfile, zstandard\n"
        "import encodings.ascii, encodings.idna, virtscope.sandbox as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    if not module.ispkg and module.name != 'libvirt_backend':\n"
        "        __import__('virtscope.sandbox.' + module.name)\n"
        "from virtscope.sandbox import Sandbox\n"
        f"os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"box = Sandbox().on({name!r}).with_network('user', allow=[({WORLD!r}, {ONE})])\n"
        f"r = box.run(['/usr/bin/python3', '-c', {PROBE!r}, 'tcp,{WORLD},{ONE}', 'tcp,{WORLD},{OTHER}'])\n"
        "sys.stdout.buffer.write(r.stdout + r.stderr)\n"
    )
    # not in pytest's folders, which are closed to others
    folder = Path(tempfile.mkdtemp(prefix="vs-"))
    request.addfinalizer(lambda: shutil.rmtree(folder))
    os.chown(folder, 65534, 65534)
    environment = os.environ | {"XDG_CACHE_HOME": str(folder), "HOME": str(folder)}
    environment.pop("XDG_RUNTIME_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=240, check=False
    )
    assert done.stdout.split() == [b"tcp", b"ConnectionRefusedError"], done


def test_a_name_server_of_our_loopback_serves_the_sandbox(world: None, tmp_path: Path) -> None:
    """As with systemd-resolved, whose address nobody else can reach."""
    del world
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.77\n")
    program = (
        "import socket, threading\n"
        "from virtscope.sandbox import Sandbox\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('127.0.0.77', 53))\n"
        "def serve():\n"
        "    while True:\n"
        "        q, sender = s.recvfrom(2000)\n"
        "        question = q[12:q.index(b'\\0', 12) + 5]\n"
        "        answer = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc6\\x33\\x64\\x09'\n"
        "        s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + question + answer, sender)\n"
        "threading.Thread(target=serve, daemon=True).start()\n"
        "box = Sandbox().on('namespaces:').with_network('user')\n"
        "print(box.run(['getent', 'ahostsv4', 'far.example'], timeout=30).stdout.decode())\n"
    )
    script = (
        'mount --make-rprivate / && mount --bind "$1" "$(realpath /etc/resolv.conf)" && exec "$2" -c "$3"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", resolver, sys.executable, program],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"198.51.100.9" in done.stdout, done


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bridge of this host, with a server of addresses and names on it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a bridge to test against")
    name, far, near, space = (f"{kind}{os.getpid()}" for kind in ("vsb", "vsg", "vsh", "vsd"))
    _ip("netns", "add", space)
    try:
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "set", name, "up")
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _ip("link", "set", near, "up", "master", name)
        _ip("-n", space, "addr", "add", "203.0.113.1/24", "dev", far)
        _ip("-n", space, "link", "set", far, "up")
        options = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]
        options += [f"--interface={far}", "--bind-interfaces", "--user=root", "--domain=virt.example"]
        options += ["--dhcp-range=203.0.113.100,203.0.113.150,1h", "--address=/far.example/203.0.113.1"]
        options += [f"--dhcp-leasefile={tmp_path_factory.mktemp('leases') / 'leases'}"]
        command = ["ip", "netns", "exec", space, "dnsmasq", *options]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                yield name
            finally:
                server.kill()
    finally:
        for link in (near, name):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "del", link)
        _ip("netns", "del", space)


@pytest.mark.parametrize(
    "name",
    ["qemu:", "uml:", "lxc:///system", pytest.param("qemu:///system", marks=pytest.mark.slow)],
)
def test_a_bridge_gives_an_address_and_names(name: str, bridge: str, daemon: Callable[[str], str]) -> None:
    box = chosen(name, daemon).with_network("bridge", bridge)
    script = "cat /proc/net/fib_trie /etc/resolv.conf; getent ahostsv4 far.example; cat /proc/net/route"
    result = box.run(["sh", "-c", script], timeout=120)
    said = result.stdout.decode()
    assert "203.0.113.1" in said.split("nameserver ")[1].splitlines()[0]
    assert "search virt.example" in said
    assert any(f"203.0.113.{number}\n" in said for number in range(100, 151))
    assert "203.0.113.1     STREAM far.example" in said
    deadline = time.monotonic() + 20
    while len(left := os.listdir(f"/sys/class/net/{bridge}/brif")) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)  # libvirt takes its time
    assert len(left) == 1, left


HOSTILE = """
import os, socket, struct, sys
name, port, tap = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
def total(data):
    n = sum(struct.unpack(f">{len(data) // 2}H", data if len(data) % 2 == 0 else data + b"\\0"))
    while n >> 16:
        n = (n & 0xFFFF) + (n >> 16)
    return ~n & 0xFFFF
with open(f"/sys/class/net/{name}/address") as stream:
    own = bytes.fromhex(stream.read().strip().replace(":", ""))
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((name, 0))
for place in sys.argv[4:]:
    payload = place.encode() + b" " * (len(place) % 2)
    six = ":" in place
    family = socket.AF_INET6 if six else socket.AF_INET
    ours = "fd76:6972:7473::2" if six else "192.0.0.2"
    source, target = (socket.inet_pton(family, address) for address in (ours, place))
    size = 8 + len(payload)
    udp = struct.pack(">HHHH", 4000, port, size, 0) + payload
    pseudo = source + target + (struct.pack(">II", size, 17) if six else struct.pack(">HH", 17, size))
    udp = udp[:6] + struct.pack(">H", total(pseudo + udp) or 0xFFFF) + udp[8:]
    if six:
        head = struct.pack(">IHBB", 6 << 28, size, 17, 64) + source + target
    else:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, 17, 0) + source + target
        head = head[:10] + struct.pack(">H", total(head)) + head[12:]
    for _ in range(3):
        raw.send(tap + own + struct.pack(">H", 0x86DD if six else 0x0800) + head + udp)
"""


@pytest.mark.parametrize("name", [pytest.param("qemu:", marks=pytest.mark.slow), "uml:"])
def test_packets_that_no_honest_kernel_sends_do_not_reach_our_loopback(name: str, world: None) -> None:
    """The guest's root may write any packet."""
    del world
    heard = set()
    interface = "vec0" if name == "uml:" else "eth0"
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener,
        usable(name).with_user("root").with_network("user") as session,
    ):
        listener.bind(("::", 0))
        listener.settimeout(3)
        port = listener.getsockname()[1]
        # the router's address on the link, learned by speaking to it
        learn = "echo > /dev/udp/192.0.0.1/9; sleep 0.5; cat /proc/net/arp"
        table = session.run(["bash", "-c", learn], timeout=60).stdout.decode()
        router = next(line.split()[3] for line in table.splitlines() if line.startswith("192.0.0.1 "))
        places = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "0.0.0.0", "::", HOST, HOST6]
        command = ["/usr/bin/python3", "-c", HOSTILE, interface, str(port), router.replace(":", ""), *places]
        result = session.run(command, timeout=60)
        assert result.ok, result
        while True:
            try:
                heard.add(listener.recv(100).strip().decode())
            except TimeoutError:
                break
    assert heard == {HOST, HOST6}


def test_what_cannot_be_done_is_said_before_anything_starts() -> None:
    box = Sandbox()
    with pytest.raises(UsageError, match="no network 'bridge'"):
        box.on("namespaces:").with_network("bridge", "br0").start()
    with pytest.raises(UsageError, match="no such bridge"):
        box.on("uml:").with_network("bridge", "no-bridge").start()
    with pytest.raises(UsageError, match="--allow"):
        box.on("qemu:///system").with_network("user", allow=[(WORLD, ONE)]).start()
    with pytest.raises(UsageError, match="--net-rate"):
        box.on("namespaces:").with_limits(net_rate=1000).start()
    with (
        listening(socket.AF_INET, "127.0.0.1") as port,
        pytest.raises((UsageError, SandboxError), match="in use"),
    ):
        usable("namespaces:").with_network("user", publish=[(port, 80)]).start()
