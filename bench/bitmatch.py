"""bitmatch against other ways to take bytes apart, doing the same work in the same process.

Peers: construct (compiled), dissect.cstruct (compiled, its default), bitstring, and struct used by hand -
into a slotted object, which is what one writes to have names, and into a bare tuple, below which Python
cannot go. All results are compared before anything is timed. Kaitai Struct is not measured: its compiler is
on no Python index, and output written by hand would not be Kaitai's.
"""

from __future__ import annotations

import random
import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

from virtscope.bitmatch import asdict, pattern

ROUNDS = 31
SECONDS = 0.02

SUPERBLOCK = [
    *[
        (name, 32)
        for name in ("inodes_count", "blocks_count_lo", "r_blocks_count_lo", "free_blocks_count_lo")
    ],
    *[(name, 32) for name in ("free_inodes_count", "first_data_block", "log_block_size", "log_cluster_size")],
    *[
        (name, 32)
        for name in ("blocks_per_group", "clusters_per_group", "inodes_per_group", "mtime", "wtime")
    ],
    *[(name, 16) for name in ("mnt_count", "max_mnt_count", "magic", "state", "errors", "minor_rev_level")],
    *[(name, 32) for name in ("lastcheck", "checkinterval", "creator_os", "rev_level")],
    *[(name, 16) for name in ("def_resuid", "def_resgid")],
    ("first_ino", 32),
    *[(name, 16) for name in ("inode_size", "block_group_nr")],
    *[(name, 32) for name in ("feature_compat", "feature_incompat", "feature_ro_compat")],
    ("uuid", b"16"),
    ("volume_name", b"16"),
]
EXTENT = [("ee_block", 32), ("ee_len", 16), ("ee_start_hi", 16), ("ee_start_lo", 32)]
EXTENTS = 10_000
LETTERS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Job:
    """A piece of work, and how each contestant does it."""

    def __init__(self, name: str, unit: int) -> None:
        self.name = name
        self.unit = unit
        self.ways: dict[str, Callable[[], Any]] = {}
        self.values: dict[str, Callable[[Any], Any]] = {}

    def add(self, name: str, way: Callable[[], Any], values: Callable[[Any], Any]) -> None:
        self.ways[name] = way
        self.values[name] = values


def by_hand(fields: list[tuple[str, Any]], order: str = "<") -> tuple[struct.Struct, Any]:
    """The struct of a structure, and a function that makes slotted objects with it."""
    letters = "".join(f"{size.decode()}s" if isinstance(size, bytes) else LETTERS[size] for _, size in fields)
    made = struct.Struct(order + letters)
    names = [name for name, _ in fields]
    source = [
        "class Object:",
        f"    __slots__ = {tuple(names)!r}",
        "def parse(data, offset=0):",
        "    made = Object()",
        f"    ({', '.join(f'made.{name}' for name in names)}) = unpack_from(data, offset)",
        "    return made",
    ]
    namespace: dict[str, Any] = {"unpack_from": made.unpack_from}
    exec("\n".join(source), namespace)
    return made, namespace["parse"]


def c_text(name: str, fields: list[tuple[str, Any]]) -> str:
    lines = []
    for field, size in fields:
        lines.append(f"char {field}[{size.decode()}];" if isinstance(size, bytes) else f"uint{size} {field};")
    return f"struct {name} {{ {' '.join(lines)} }};"


def text(fields: list[tuple[str, Any]]) -> str:
    lines = [
        f"{name} : bytes({size.decode()})" if isinstance(size, bytes) else f"{name} : {size}"
        for name, size in fields
    ]
    return "little\n" + "\n".join(lines)


def fixed_job(name: str, fields: list[tuple[str, Any]]) -> Job:
    """One structure of whole bytes."""
    import bitstring
    import construct
    from dissect import cstruct

    data = random.Random(1).randbytes(4096)
    job = Job(name, 1)
    names = [field for field, _ in fields]
    ours = pattern("ours", text(fields))
    plain, parse = by_hand(fields)
    kinds: dict[Any, Any] = {8: construct.Int8ul, 16: construct.Int16ul, 32: construct.Int32ul}
    parts = [
        field / (construct.Bytes(int(size)) if isinstance(size, bytes) else kinds[size])
        for field, size in fields
    ]
    compiled = construct.Struct(*parts).compile()
    peer = cstruct.cstruct().load(c_text("peer", fields)).peer
    tokens = ",".join(
        f"bytes:{size.decode()}" if isinstance(size, bytes) else f"uintle:{size}" for _, size in fields
    )

    def by_attributes(found: Any) -> tuple[Any, ...]:
        return tuple(getattr(found, field) for field in names)

    ours.parse(data)
    job.add("bitmatch", lambda: ours.parse(data, 64), lambda found: tuple(asdict(found).values()))
    job.add("struct, tuple", lambda: plain.unpack_from(data, 64), tuple)
    job.add("struct, object", lambda: parse(data, 64), by_attributes)
    job.add("construct", lambda: compiled.parse(data[64:]), lambda found: tuple(found[f] for f in names))
    job.add("dissect.cstruct", lambda: peer(data[64:]), by_attributes)
    job.add(
        "bitstring",
        lambda: bitstring.Bits(data[64 : 64 + 2000]).unpack(tokens + ",bits"),
        lambda found: tuple(found[:-1]),
    )
    return job


def array_job() -> Job:
    """Many structures in a row."""
    import construct
    from dissect import cstruct

    rows = random.Random(2).randbytes(12 * EXTENTS)
    kinds: dict[Any, Any] = {8: construct.Int8ul, 16: construct.Int16ul, 32: construct.Int32ul}
    extent = pattern("extent", text(EXTENT))
    plain, parse = by_hand(EXTENT)
    one = construct.Struct(*[name / kinds[size] for name, size in EXTENT])
    array = construct.Array(EXTENTS, one).compile()
    peers = cstruct.cstruct().load(c_text("peer", EXTENT)).peer[EXTENTS]
    job = Job(f"{EXTENTS} ext4 extents in a row, their lengths added up", EXTENTS)
    job.add("bitmatch", lambda: sum([one.ee_len for one in extent.iter(rows)]), int)
    job.add("bitmatch, tuples", lambda: sum([one[1] for one in extent.tuples(rows)]), int)
    job.add("struct, tuple", lambda: sum([one[1] for one in plain.iter_unpack(rows)]), int)
    job.add("struct, object", lambda: sum([parse(rows, at).ee_len for at in range(0, len(rows), 12)]), int)
    job.add("construct", lambda: sum([one.ee_len for one in array.parse(rows)]), int)
    job.add("dissect.cstruct", lambda: sum([one.ee_len for one in peers(rows)]), int)
    return job


def packet_job() -> Job:
    """Bit-fields and a length: an IPv4 packet."""
    import bitstring
    import construct
    from dissect import cstruct

    packet = bytes.fromhex("4600001c 00016000 40117ccd 7f000001 7f000001 94040000") + b"payload!" * 4
    ours = pattern(
        "ipv4",
        """
        version : 4 = 4
        ihl : 4
        tos : 8
        length : 16
        id : 16
        flags : 3
        fragment : 13
        ttl : 8
        protocol : 8
        checksum : 16
        source : 32
        destination : 32
        options : bytes((ihl - 5) * 4)
        payload : bytes
        """,
    )
    parts = construct.Struct(
        "bits1" / construct.BitStruct("version" / construct.BitsInteger(4), "ihl" / construct.BitsInteger(4)),
        "tos" / construct.Int8ub,
        "length" / construct.Int16ub,
        "id" / construct.Int16ub,
        "bits2"
        / construct.BitStruct("flags" / construct.BitsInteger(3), "fragment" / construct.BitsInteger(13)),
        "ttl" / construct.Int8ub,
        "protocol" / construct.Int8ub,
        "checksum" / construct.Int16ub,
        "source" / construct.Int32ub,
        "destination" / construct.Int32ub,
        "options" / construct.Bytes((construct.this.bits1.ihl - 5) * 4),
        "payload" / construct.GreedyBytes,
    )
    compiled = parts.compile()
    peer = cstruct.cstruct(endian=">").load(
        """struct peer { uint8 version:4; uint8 ihl:4; uint8 tos; uint16 length; uint16 id; uint16 flags:3;
        uint16 fragment:13; uint8 ttl; uint8 protocol; uint16 checksum; uint32 source; uint32 destination;
        char options[(ihl - 5) * 4]; char payload[EOF]; };"""
    )
    names: tuple[str, ...] = (
        "version",
        "ihl",
        "tos",
        "length",
        "id",
        "flags",
        "fragment",
        "ttl",
        "protocol",
        "checksum",
        "source",
        "destination",
        "options",
        "payload",
    )
    head = struct.Struct(">BBHHHBBHII")

    class Packet:
        __slots__ = names

    def hand(data: bytes) -> Any:
        made: Any = Packet()
        (first, made.tos, made.length, made.id, second, made.ttl, made.protocol, made.checksum, made.source,
         made.destination) = head.unpack_from(data)  # fmt: skip
        made.version = first >> 4
        made.ihl = first & 15
        made.flags = second >> 13
        made.fragment = second & 0x1FFF
        stop = made.ihl * 4
        if made.version != 4 or not 20 <= stop <= len(data):
            raise ValueError
        made.options = data[20:stop]
        made.payload = data[stop:]
        return made

    def by_attributes(found: Any) -> tuple[Any, ...]:
        return tuple(getattr(found, name) for name in names)

    def by_construct(found: Any) -> tuple[Any, ...]:
        flat = dict(found) | dict(found.bits1) | dict(found.bits2)
        return tuple(flat[name] for name in names)

    tokens = (
        "uint:4,uint:4,uint:8,uint:16,uint:16,uint:3,uint:13,uint:8,uint:8,uint:16,uint:32,uint:32,"
        "bytes:4,bytes"
    )
    job = Job("IPv4 packet, bit-fields and options", 1)
    ours.parse(packet)
    job.add("bitmatch", lambda: ours.parse(packet), by_attributes)
    job.add("struct, object", lambda: hand(packet), by_attributes)
    job.add("construct", lambda: compiled.parse(packet), by_construct)
    job.add("dissect.cstruct", lambda: peer.peer(packet), by_attributes)
    job.add("bitstring", lambda: bitstring.Bits(packet).unpack(tokens), tuple)
    return job


def run(way: Callable[[], Any], count: int) -> float:
    """CPU seconds of one call, from `count` of them: what others do on the machine counts less than in wall
    time.
    """
    number = range(count)
    started = time.thread_time()
    for _ in number:
        way()
    return max(time.thread_time() - started, 1e-9) / count


def measure(job: Job) -> dict[str, float]:
    """Median CPU seconds of each way, measured in turn."""
    wanted = job.values["bitmatch"](job.ways["bitmatch"]())
    for name, way in job.ways.items():
        found = job.values[name](way())
        if found != wanted:
            raise RuntimeError(f"{job.name}: {name} reads something else than bitmatch")
    counts = {}
    for name, way in job.ways.items():
        best = min(run(way, 3) for _ in range(5))
        counts[name] = max(1, int(SECONDS / best))
    times: dict[str, list[float]] = {name: [] for name in job.ways}
    for _ in range(ROUNDS):
        for name, way in job.ways.items():
            times[name].append(run(way, counts[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def compile_times() -> None:
    """What a pattern costs before it is used, and when it is used first."""
    body = text(SUPERBLOCK)
    made, first = [], []
    for _ in range(100):
        started = time.thread_time()
        fresh = pattern("fresh", body)
        middle = time.thread_time()
        fresh.parse(bytes(1024))
        first.append(time.thread_time() - middle)
        made.append(middle - started)
    print(
        f"\nA pattern of {len(SUPERBLOCK)} fields costs {statistics.median(made) * 1e6:.0f} us when it is "
        f"defined and {statistics.median(first) * 1e6:.0f} us when it is first used."
    )


def main() -> None:
    """Measure everything and print the tables."""
    try:
        jobs = [
            fixed_job("ext4 superblock, 33 fields", SUPERBLOCK),
            fixed_job("ext4 extent, 4 fields", EXTENT),
            array_job(),
            packet_job(),
        ]
    except ImportError as error:
        raise RuntimeError(
            f"{error.name} is not installed: pip install construct dissect.cstruct bitstring"
        ) from None
    for job in jobs:
        found = measure(job)
        ours = found["bitmatch"]
        print(f"\n{job.name}\n\n| | ns each | times bitmatch |\n|---|---|---|")
        for name, seconds in found.items():
            print(f"| {name} | {seconds / job.unit * 1e9:.0f} | {seconds / ours:.2f} |")
    compile_times()
