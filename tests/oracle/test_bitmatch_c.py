"""Patterns imported from C headers, against what gcc makes of the same headers.

One program prints the offset, the size and the value of every member of all structures; the patterns must say
the same. The headers are those of the kernel and libc that are installed.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from virtscope.bitmatch import DeclarationError, Record, describe, import_c
from virtscope.bitmatch.c_header import declared_structs, import_c_all
from virtscope.bitmatch.declarations import Imported

HEADERS = """
    linux/aio_abi.h linux/atm.h linux/ax25.h linux/bpf.h linux/btf.h linux/btrfs.h linux/btrfs_tree.h
    linux/can.h linux/can/bcm.h linux/cdrom.h linux/cn_proc.h linux/coff.h linux/connector.h
    linux/cxl_mem.h linux/dlm_device.h linux/dm-ioctl.h linux/elf.h linux/ethtool.h linux/fanotify.h
    linux/fb.h linux/fs.h linux/fuse.h linux/futex.h linux/gfs2_ondisk.h linux/gpio.h linux/hdreg.h
    linux/i2c.h linux/icmp.h linux/if_arp.h linux/if_ether.h linux/if_packet.h linux/inotify.h
    linux/input.h linux/io_uring.h linux/ip.h linux/ipv6.h linux/iso_fs.h linux/keyctl.h linux/kvm.h
    linux/l2tp.h linux/landlock.h linux/loop.h linux/mempolicy.h linux/minix_fs.h linux/msdos_fs.h
    linux/nbd.h linux/ncsi.h linux/netlink.h linux/nilfs2_ondisk.h linux/nvme_ioctl.h linux/perf_event.h
    linux/ppp_defs.h linux/pps.h linux/ptp_clock.h linux/qnx4_fs.h linux/raid/md_p.h linux/raid/md_u.h
    linux/romfs_fs.h linux/rseq.h linux/rtc.h linux/rtnetlink.h linux/scc.h linux/sched/types.h
    linux/spi/spidev.h linux/stat.h linux/taskstats.h linux/tcp.h linux/tipc.h linux/tls.h linux/udp.h
    linux/uinput.h linux/usb/ch9.h linux/userfaultfd.h linux/vfio.h linux/vhost.h linux/videodev2.h
    linux/virtio_blk.h linux/virtio_net.h linux/virtio_ring.h linux/virtio_scsi.h linux/watchdog.h
    linux/wireless.h linux/x25.h linux/xfrm.h mtd/mtd-abi.h rdma/ib_user_verbs.h sound/asound.h
    """

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/linux/fs.h").exists(),
    reason="gcc or the headers of the kernel are not installed",
)


def compile_and_run(code: str, folder: Path, *options: str) -> str:
    source = folder / "program.c"
    source.write_text(code)
    program = folder / "program"
    subprocess.run(
        ["gcc", "-O0", "-w", *options, "-o", program, source], check=True, capture_output=True, text=True
    )
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout


def question(
    name: str, word: str, pattern: type[Record], text: str, data: bytes
) -> tuple[list[str], list[str]]:
    """Lines of C that print what is in a structure, and what they should print."""
    code = [f"{{ static {word} v; size_t place; memset(&v, 0, sizeof v);", f"memcpy(&v, data, {len(data)});"]
    code.append(f'printf("{name} %zu\\n", sizeof v);')
    answers = [f"{name} {pattern.size_bytes}"]
    comments = {}
    for line in text.splitlines():
        declaration, _, comment = line.partition("#")
        comments[declaration.split(":")[0].strip()] = comment.strip()
    for step in describe(pattern, data):
        if step.depth or step.name in ("_", "underscores"):
            continue
        comment = comments[step.name]
        code.append(f'printf("{step.name}");')
        answer = step.name
        if ":" not in comment:  # not a bit-field
            code.append(
                f'printf(" %zu %zu", (size_t)((char *)&v.{step.name} - (char *)&v), sizeof v.{step.name});'
            )
            assert step.offset_bits % 8 == 0
            answer += f" {step.offset_bits // 8} {step.size_bits // 8}"
        if isinstance(step.value, int) and comment not in ("bool", "_Bool"):
            value = step.value
            if comment.startswith("__be"):
                value = int.from_bytes(value.to_bytes(step.size_bits // 8, "big"), "little")
            code.append(f'printf(" %llx", (unsigned long long)(long long)v.{step.name});')
            answer += f" {value & (1 << 64) - 1:x}"
        code.append('puts("");')
        answers.append(answer)
    code.append("}")
    return code, answers


def test_installed_headers(tmp_path: Path) -> None:
    includes = "".join(
        f"#include <{header}>\n" for header in HEADERS.split() if Path("/usr/include", header).exists()
    )
    header = tmp_path / "all.h"
    header.write_text(includes)
    names = declared_structs(str(header))
    imported = import_c_all(str(header), names)
    code = [includes, "#include <stdio.h>", "#include <string.h>", "#include <stddef.h>"]
    randomness = random.Random(3)
    data = randomness.randbytes(1 << 16)
    code.append("static const unsigned char data[] = {" + ",".join(map(str, data)) + "};")
    wanted: list[str] = []
    bodies: list[str] = []
    for name in names:
        made = imported[name]
        pattern = made.pattern()
        if pattern.size_bytes > len(data):
            continue
        word = made.text.split("# ")[1].split(",")[0]
        lines, answers = question(name, word, pattern, made.text, data[: pattern.size_bytes])
        bodies.append(f"static void f{len(bodies)}(void) {' '.join(lines)}")
        wanted += answers
    calls = "".join(f"f{index}();\n" for index in range(len(bodies)))
    code += [*bodies, f"int main(void) {{ {calls} return 0; }}"]
    assert len(bodies) >= 1000
    assert compile_and_run("\n".join(code), tmp_path).splitlines() == wanted


TRICKY = """
    typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
    typedef unsigned long long u64;
    typedef u32 __be32; typedef u16 __le16;
    enum colour { RED = 1, BLUE = -2 };
    struct bits { u8 a:3, b:5; int c:7; u32 :0; u32 d:31, e:2; u64 f:40, g:24; signed char h:4; _Bool i:1; };
    struct packed { u8 a; u32 b; u64 c:36; u16 d; } __attribute__((packed));
    struct aligned { u8 a; u8 b __attribute__((aligned(16))); };
    struct nested {
        struct bits first; union { u32 word; u8 bytes[4]; struct { u16 low, high; }; };
        struct { u8 x, y; } points[3]; union { float real; double more; } number; struct packed *pointer;
        enum colour colour; u16 grid[2][3]; char name[5]; signed char codes[3]; u8 raw[2][4]; long double big;
        __be32 class; __le16 small; void (*call)(int); u32 tail[];
    };
    typedef struct { int x; } unnamed_t;
    """

PROBE = """
    #include <stdio.h>
    #include <string.h>
    int main(void) {
        struct nested v; struct bits b; struct packed p; unsigned char raw[256];
        for (int i = 0; i < 256; i++) raw[i] = i * 37 + 11;
        memcpy(&v, raw, sizeof v); memcpy(&b, raw, sizeof b); memcpy(&p, raw, sizeof p);
        printf("%d %d %d %u %u %llu %llu %d\\n", b.a, b.b, b.c, b.d, b.e, (u64)b.f, (u64)b.g, b.h);
        printf("%u %u %llu %u\\n", p.a, p.b, (u64)p.c, p.d);
        printf("%u %u %u %u %u\\n", v.word, v.bytes[3], v.low, v.high, v.points[2].y);
        printf("%u %d %u %u %d\\n", v.grid[1][0], v.codes[2], v.raw[1][3], v.class, v.first.c);
        printf("%zu %zu %zu %zu\\n", sizeof v, sizeof b, sizeof p, sizeof(struct aligned));
        return 0;
    }
    """


def test_bit_fields_unions_and_arrays(tmp_path: Path) -> None:
    header = tmp_path / "tricky.h"
    header.write_text(TRICKY)
    output = compile_and_run(TRICKY + PROBE, tmp_path).split("\n")
    raw = bytes((index * 37 + 11) & 255 for index in range(256))
    made = import_c_all(str(header), ["nested", "bits", "packed", "aligned", "unnamed_t"])
    nested, bits, packed = (made[name].pattern() for name in ("nested", "bits", "packed"))
    b, p, v = bits.parse(raw), packed.parse(raw), nested.parse(raw)
    assert output[0] == f"{b.a} {b.b} {b.c} {b.d} {b.e} {b.f} {b.g} {b.h}"
    assert output[1] == f"{p.a} {p.b} {p.c} {p.d}"
    assert output[2] == f"{v.word} {v.bytes[3]} {v.low} {v.high} {v.points[2].y}"
    swapped = int.from_bytes(v.class_.to_bytes(4, "big"), "little")
    assert output[3] == f"{v.grid[1][0]} {v.codes[2]} {v.raw[1][3]} {swapped} {v.first.c}"
    aligned = made["aligned"].pattern()
    assert output[4] == f"{nested.size_bytes} {bits.size_bytes} {packed.size_bytes} {aligned.size_bytes}"
    assert [enum.name for enum in made["nested"].enums] == ["colour"]
    assert "as many u32 as follow" in made["nested"].text
    assert made["unnamed_t"].pattern().parse(b"\1\0\0\0").x == 1
    record = packed.parse(raw)
    assert packed.parse(bytes(record)) == record


def test_the_target_decides(tmp_path: Path) -> None:
    header = tmp_path / "target.h"
    header.write_text("struct s { char c; long l; unsigned a:4, b:12; void *p; };")
    sizes = {}
    for target in ("x86_64-linux-gnu", "i686-linux-gnu", "powerpc64-linux-gnu"):
        made = import_c(str(header), "s", target=target)
        sizes[target] = made.sizes["s"]
        data = bytes(range(1, 60))
        record = made.pattern().parse(data)
        if target.startswith("powerpc"):
            assert (record.l, record.a, record.b) == (0x090A0B0C0D0E0F10, 0x1, 0x112)
        elif target.startswith("i686"):
            assert (record.l, record.a, record.b) == (0x08070605, 0x9, 0xA0)
        else:
            assert (record.l, record.a, record.b) == (0x100F0E0D0C0B0A09, 0x1, 0x121)
    assert sizes == {"x86_64-linux-gnu": 32, "i686-linux-gnu": 16, "powerpc64-linux-gnu": 32}


def test_the_module_that_is_written_can_be_imported(tmp_path: Path) -> None:
    header = tmp_path / "tricky.h"
    header.write_text(
        TRICKY
        + "enum odd { __FIRST = 1, mro = 2, _x_ = 3 }; struct odd_one { enum odd class; struct nested n; };"
    )
    made = import_c(str(header), "odd_one")
    namespace: dict[str, object] = {"__name__": "written"}
    exec(compile(made.source(), "written.py", "exec"), namespace)
    pattern = namespace["odd_one"]
    assert isinstance(pattern, type)
    assert issubclass(pattern, Record)
    raw = bytes((index * 37 + 11) & 255 for index in range(512))
    assert str(pattern.parse(raw)) == str(made.pattern().parse(raw))
    assert namespace["odd"](2).value == 2  # type: ignore[operator]
    assert {"colour", "nested", "bits_"} <= set(namespace)
    ruff = shutil.which("ruff")
    if ruff:
        subprocess.run([ruff, "check", "--select", "E9,F", "-"], input=made.source(), text=True, check=True)


@pytest.mark.parametrize(
    ("text", "struct", "message"),
    [
        ("struct a { int x; };", "b", "b is not declared, or only announced"),
        ("struct a;", "a", "a is not declared, or only announced"),
        ("struct abcd { int x; };", "abce", "did you mean abcd"),
        ("struct a { unknown_t x; };", "a", "unknown type name 'unknown_t'"),
        ("#include <no/such/header.h>\nstruct a { int x; };", "a", "'no/such/header.h' file not found"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path: Path, text: str, struct: str, message: str) -> None:
    header = tmp_path / "broken.h"
    header.write_text(text)
    with pytest.raises(DeclarationError, match=message):
        import_c(str(header), struct)


def test_headers_are_found_by_name() -> None:
    made: Imported = import_c("linux/if_ether.h", "ethhdr")
    record = made.pattern().parse(bytes.fromhex("010203040506 0a0b0c0d0e0f 0800"))
    assert record.h_dest == bytes([1, 2, 3, 4, 5, 6])
    assert record.h_proto == 0x0800
    with pytest.raises(DeclarationError):
        import_c("no/such.h", "x")
