"""The kernel core on real kernels, against what each kernel says of itself from inside."""

from __future__ import annotations

import importlib
import json
import random
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from lab import Guest
from tests.unit.kernel.test_btf import compare
from tests.vm.kernel_access import kernel_of, listed, missing, processes, shown, without
from virtscope.errors import UnknownLayout
from virtscope.kernel.collections import maple_of, rbtree_of, xarray_of
from virtscope.kernel.modules import module_types


def symbol_table(guest: Guest) -> tuple[list[tuple[int, str, str]], dict[str, set[tuple[int, str]]]]:
    """/proc/kallsyms: the kernel's own (address, type, name), and the (address, name) of each module."""
    kernel, modules = [], dict[str, set[tuple[int, str]]]()
    for line in guest.run("echo 0 >/proc/sys/kernel/kptr_restrict; cat /proc/kallsyms").splitlines():
        address, kind, name, *module = line.split()
        if module:
            modules.setdefault(module[0].strip("[]"), set()).add((int(address, 16), name))
        else:
            kernel.append((int(address, 16), kind, name))
    return kernel, modules


def test_symbols_are_those_of_proc_kallsyms(guest: Guest) -> None:
    expected, in_modules = symbol_table(guest)
    by_name, by_address = defaultdict[str, set[int]](set), defaultdict[int, set[str]](set)
    for address, _, name in expected:
        by_name[name].add(address)
        by_address[address].add(name)
    with kernel_of(guest) as kernel:
        table = kernel.symbol_table()
        assert table is not None
        found = list(table.symbols())
        assert len(found) > 50_000
        assert found == expected[: len(found)]
        names = sorted({name for _, _, name in found})
        for name in random.Random(1).sample(names, 300):
            assert kernel.symbol(name) in by_name[name]
        for address, _, _ in random.Random(2).sample(
            [symbol for symbol in found if symbol[0] > 1 << 63], 300
        ):
            symbol = kernel.symbolize(address)
            assert symbol is not None
            assert symbol[0] in by_address[address]
            assert symbol[1:] == (0, None)
        for module in kernel.modules():
            inside = in_modules[module.name]
            found_in_it = {(address, name) for address, _, name in module.symbols()}
            # Symbols of parts that were freed after loading stay in the table, but not in /proc/kallsyms.
            there = {
                (address, name)
                for address, name in found_in_it
                if any(start <= address < start + size for start, size in module.ranges)
            }
            assert there <= inside
            assert len(there) >= len(inside) * 0.9


def test_modules_are_those_of_proc_modules(guest: Guest) -> None:
    lines = [line.split() for line in guest.run("cat /proc/modules").splitlines()]
    with kernel_of(guest) as kernel:
        found = kernel.modules()
        assert [module.name for module in found] == [line[0] for line in lines]
        for module, line in zip(found, lines, strict=True):
            assert any(start == int(line[5], 16) for start, _ in module.ranges), module.name
            start, size = module.ranges[0]
            inside = [symbol for symbol in module.symbols() if start <= symbol[0] < start + size]
            symbol = kernel.symbolize(inside[0][0] + 1)
            assert symbol is not None
            assert symbol[0] in {name for address, _, name in inside if address == inside[0][0]}
            assert symbol[1:] == (1, module.name)


def test_types_are_those_of_bpftool(guest: Guest, tmp_path: Path) -> None:
    if not shutil.which("/usr/sbin/bpftool"):
        pytest.skip("bpftool is not installed")
    names = guest.run("ls /sys/kernel/btf").split()
    for name in names:
        (tmp_path / name).write_bytes(guest.execute(f"cat /sys/kernel/btf/{name}").stdout)
    with kernel_of(guest) as kernel:
        compare(kernel.btf(), bpftool(tmp_path / "vmlinux"))
        # Kernels before 5.11 have no types of modules.
        has_modules = kernel.has_symbol("btf_modules")
        in_modules = dict(module_types(kernel, kernel.btf())) if has_modules else {}
        assert sorted([*in_modules, "vmlinux"]) == sorted(names)
        for name, types in in_modules.items():
            dump = bpftool(tmp_path / name, "--base-btf", str(tmp_path / "vmlinux"))
            assert len(types) == types.first + len(dump)
            for number, expected in dump.items():
                assert (types.type(number).name or "(anon)") == expected["name"]


def bpftool(file: Path, *options: str) -> dict[int, dict[str, object]]:
    command = ["/usr/sbin/bpftool", *options, "-j", "btf", "dump", "file", str(file)]
    done = subprocess.run(command, check=True, capture_output=True)
    return {found["id"]: found for found in json.loads(done.stdout)["types"]}


def test_identity(guest: Guest) -> None:
    notes = guest.execute("cat /sys/kernel/notes").stdout
    with kernel_of(guest) as kernel:
        assert kernel.banner == guest.run("cat /proc/version").rstrip("\n")
        assert kernel.release == guest.run("uname -r").strip()
        assert kernel.build_id
        assert bytes.fromhex(kernel.build_id) in notes
        assert kernel.vmcoreinfo["OSRELEASE"] == kernel.release
        assert int(kernel.vmcoreinfo["KERNELOFFSET"], 16) == kernel.image.start - 0xFFFF_FFFF_8100_0000
        text = re.search(
            r"^ *([0-9a-f]+)-[0-9a-f]+ : Kernel code", guest.run("cat /proc/iomem"), re.MULTILINE
        )
        assert text is not None
        assert kernel.image.physical == int(text[1], 16)
        assert kernel.translate(kernel.symbol("_text")) == kernel.image.physical
        direct = kernel.read_u64(kernel.symbol("page_offset_base"))
        assert kernel.read(direct + kernel.image.physical, 64) == kernel.read(kernel.image.start, 64)
        assert kernel.direct_map == direct
        cpus = guest.run("cat /sys/devices/system/cpu/online").strip()
        assert cpus in (str(kernel.online_cpus()[0]), f"0-{kernel.online_cpus()[-1]}")
        assert (kernel.image.levels == 5) == bool(re.search(r"\bla57\b", guest.run("cat /proc/cpuinfo")))


def test_processes_with_symbols_and_types_and_without(guest: Guest) -> None:
    with kernel_of(guest) as kernel:
        lasting = processes(guest)
        assert len(lasting) > 40
        assert missing(guest, lasting, listed(kernel)) == {}
        for poorer in (
            without(kernel, types=True),
            without(kernel, symbols=True),
            without(kernel, types=True, symbols=True),
        ):
            found = listed(poorer)
            assert missing(guest, lasting, found) == {}, poorer.notes
            assert poorer.notes
            assert len(poorer.evidence) >= 3
            assert poorer.symbol("init_task") == kernel.symbol("init_task")
            if poorer.has_types:
                for name in ("init_uts_ns", "init_net", "init_pid_ns", "net_namespace_list", "prb"):
                    assert poorer.symbol(name) == kernel.symbol(name), name
            else:
                layout = kernel.struct("task_struct")
                for member in ("tasks", "pid", "tgid", "comm", "real_parent"):
                    assert poorer.struct("task_struct").offset(member) == layout.offset(member)
                with pytest.raises(UnknownLayout):
                    poorer.struct("task_struct").offset("cred")


def test_trees_of_the_kernel(guest: Guest) -> None:
    """Process ids by the namespace's radix tree, mappings by the address space's tree."""
    pid = int(guest.run("pidof lab-plain").split()[0])
    maps = [line.split() for line in guest.run(f"cat /proc/{pid}/maps").splitlines()]
    ranges = [
        tuple(int(part, 16) for part in line[0].split("-")) for line in maps if "vsyscall" not in line[-1]
    ]
    lasting = processes(guest)
    with kernel_of(guest) as kernel:
        ids = {index for index, _ in xarray_of(kernel, kernel.variable("init_pid_ns").at("idr.idr_rt"))}
        assert lasting.keys() & processes(guest).keys() <= ids
        head = kernel.symbol("init_task") + kernel.struct("task_struct").offset("tasks")
        task = next(t for t in kernel.list_of(head, "task_struct", "tasks") if t["pid"] == pid)
        mm = task.pointee("mm")
        if mm.has("mm_mt"):
            areas = [kernel.record("vm_area_struct", area) for _, _, area in maple_of(kernel, mm.at("mm_mt"))]
        else:
            areas = list(rbtree_of(kernel, mm.at("mm_rb"), "vm_area_struct", "vm_rb"))
        assert [(area["vm_start"], area["vm_end"]) for area in areas] == ranges
        space = kernel.user_space(mm["pgd"])
        text = space.read(mm["arg_start"], mm["arg_end"] - mm["arg_start"])
        assert text == guest.execute(f"cat /proc/{pid}/cmdline").stdout


def test_drgn_helpers_agree(guest: Guest) -> None:
    """drgn's own helpers, on the types and symbols found in memory, against the guest."""
    linux = importlib.import_module("drgn.helpers.linux")
    pid = int(guest.run("pidof lab-args").split()[0])
    with kernel_of(guest) as kernel:
        prog = kernel.prog
        lasting = processes(guest)
        seen = {task.pid.value_(): shown(task.comm.string_()) for task in linux.for_each_task(prog)}
        assert missing(guest, lasting, seen) == {}
        task = linux.find_task(prog, pid)
        assert b"\0".join([*linux.cmdline(task), b""]) == guest.execute(f"cat /proc/{pid}/cmdline").stdout
        assert (
            linux.d_path(task.mm.exe_file.f_path).decode() == guest.run(f"readlink /proc/{pid}/exe").strip()
        )
        assert linux.d_path(task.fs.pwd).decode() == guest.run(f"readlink /proc/{pid}/cwd").strip()
        names = {
            device.name.string_().decode() for device in linux.for_each_netdev(prog["init_net"].address_of_())
        }
        assert names == set(guest.run("ls /sys/class/net").split()) - {"bonding_masters"}
        assert [m.name.string_().decode() for m in linux.for_each_module(prog)] == [
            m.name for m in kernel.modules()
        ]
        log = linux.get_dmesg(prog, timestamps=False).splitlines()
        assert f"Linux version {kernel.release}".encode() in log[0]
        assert linux.tainted(prog) is not None
        before = float(guest.run("cat /proc/uptime").split()[0])
        uptime = float(linux.uptime(prog))
        assert before - 30 < uptime < float(guest.run("cat /proc/uptime").split()[0]) + 30
        assert list(linux.for_each_online_cpu(prog)) == list(kernel.online_cpus())
        assert linux.cpu_curr(prog, 0).comm.string_()
        assert linux.find_slab_cache(prog, "task_struct").name.string_() == b"task_struct"
        assert prog.symbol("schedule").address == kernel.symbol("schedule")
        assert prog.symbol(kernel.symbol("schedule") + 3).name == "schedule"
        assert prog["PIDTYPE_PID"].value_() == 0
        assert {linux.mount_dst(mount) for mount in linux.for_each_mount(prog)} >= {b"/", b"/proc"}
        for module in kernel.modules():
            address, _, name = module.symbols()[0]
            assert address in [symbol.address for symbol in prog.symbols(name)]
        if kernel.has_symbol("btf_modules"):
            assert prog.type("struct virtnet_info").has_member("vdev"), "a type of a module only"
