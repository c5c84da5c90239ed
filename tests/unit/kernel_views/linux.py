"""A small Linux in a `World`: an idle task, processes, their terminals, files, groups and network."""

from __future__ import annotations

from typing import Any

from tests.unit.kernel_views.world import BASE, USER, World, dotted

STRUCTS = {
    "list_head": "next: ptr list_head; prev: ptr list_head",
    "hlist_head": "first: ptr",
    "atomic_t": "counter: s32",
    "kuid_t": "val: u32",
    "tk_read_base": "clock: ptr; mask: u64; mult: u32; shift: u32; xtime_nsec: u64; base: s64",
    "timekeeper": (
        "tkr_mono: tk_read_base; tkr_raw: tk_read_base; offs_real: s64; offs_boot: s64; ntp_tick: u64"
    ),
    "upid": "nr: s32; ns: ptr pid_namespace",
    "ns_common": "stashed: ptr; inum: u32",
    "pid_namespace": "level: u32; ns: ns_common",
    "user_namespace": "ns: ns_common",
    "uts_namespace": "ns: ns_common",
    "mnt_namespace": "ns: ns_common; list: list_head",
    "nsproxy": "count: s32; uts_ns: ptr uts_namespace; mnt_ns: ptr mnt_namespace; net_ns: ptr net",
    "pid": "count: u32; level: u32; tasks: hlist_head[4]; numbers: upid[1]",
    "tty_struct": "magic: u32; name: char[64]; pgrp: ptr pid",
    "prev_cputime": "utime: u64; stime: u64",
    "sched_entity": "sum_exec_runtime: u64",
    "group_info": "usage: s32; ngroups: s32; gid: u32[0]",
    "cred": (
        "uid: kuid_t; gid: kuid_t; suid: kuid_t; sgid: kuid_t; euid: kuid_t; egid: kuid_t; fsuid: kuid_t; "
        "fsgid: kuid_t; group_info: ptr group_info; user_ns: ptr user_namespace"
    ),
    "signal_struct": (
        "nr_threads: s32; thread_head: list_head; pids: ptr[4]; tty: ptr tty_struct; utime: u64; stime: u64; "
        "sum_sched_runtime: u64; prev_cputime: prev_cputime"
    ),
    "qstr": "hash: u32; len: u32; name: ptr",
    "hlist_bl_node": "next: ptr; pprev: ptr",
    "super_block": "s_magic: u64",
    "inode": "i_ino: u64",
    "dentry": "d_flags: u32; d_hash: hlist_bl_node; d_parent: ptr dentry; d_name: qstr; d_inode: ptr inode",
    "vfsmount": "mnt_root: ptr dentry; mnt_sb: ptr super_block",
    "mount": "mnt_parent: ptr mount; mnt_mountpoint: ptr dentry; mnt: vfsmount; mnt_list: list_head",
    "path": "mnt: ptr vfsmount; dentry: ptr dentry",
    "file": "f_path: path",
    "fs_struct": "users: s32; root: path; pwd: path",
    "percpu_counter": "count: s64; counters: ptr",
    "mm_struct": (
        "pgd: ptr; mm_users: atomic_t; total_vm: u64; locked_vm: u64; arg_start: u64; arg_end: u64; "
        "rss_stat: percpu_counter[4]; exe_file: ptr file"
    ),
    "kernfs_node": "parent: ptr kernfs_node; name: ptr",
    "cgroup": "kn: ptr kernfs_node; root: ptr cgroup_root",
    "cgroup_root": "hierarchy_id: s32; name: char[64]",
    "cgroup_subsys": "legacy_name: ptr; root: ptr cgroup_root",
    "cgrp_cset_link": "cgrp: ptr cgroup; cgrp_link: list_head",
    "css_set": "cgrp_links: list_head",
    "kthread": "data: ptr; full_name: ptr",
    "worker_pool": "cpu: s32",
    "workqueue_struct": "name: char[32]",
    "worker": "current_work: ptr; pool: ptr worker_pool; desc: char[32]; rescue_wq: ptr workqueue_struct",
    "task_struct": (
        "__state: u32; flags: u32; on_cpu: s32; cpu: u32; prio: s32; static_prio: s32; rt_priority: u32; "
        "policy: u32; "
        "exit_state: s32; pid: s32; tgid: s32; se: sched_entity; tasks: list_head; mm: ptr mm_struct; "
        "real_parent: ptr task_struct; thread_pid: ptr pid; thread_node: list_head; set_child_tid: ptr; "
        "worker_private: ptr; utime: u64; stime: u64; prev_cputime: prev_cputime; nvcsw: u64; nivcsw: u64; "
        "start_boottime: u64; real_cred: ptr cred; comm: char[16]; fs: ptr fs_struct; nsproxy: ptr nsproxy; "
        "signal: ptr signal_struct; cgroups: ptr css_set"
    ),
    "net": "list: list_head; ns: ns_common; dev_base_head: list_head; netns_ids: ptr",
}
ENUMS = {"cgroup_subsys_id": {"cpu_cgrp_id": 0, "CGROUP_SUBSYS_COUNT": 1}}

SECOND = 1_000_000_000
BOOT = 1_700_000_000 * SECOND


class Linux(World):
    """A kernel with an idle task, to which tests add processes."""

    def __init__(self, *, is_live: bool = False, has_types: bool = True) -> None:
        super().__init__(STRUCTS, enums=ENUMS, is_live=is_live, has_types=has_types)
        self.tasks: list[int] = []
        self.ids: dict[int, int] = {}
        self.namespace = self.new("pid_namespace", ns__inum=4026531836)
        self.users = self.new("user_namespace", ns__inum=4026531837)
        self.symbols["init_task"] = self.new("task_struct", comm="swapper/0")
        self.symbols["_totalram_pages"] = self.allocate(8)
        self.data[self.symbols["_totalram_pages"] - BASE] = 200
        keeper = self.allocate(8 + self.struct("timekeeper").size)
        self.symbols["tk_core"] = keeper
        for path, value in {
            "tkr_mono.clock": 1,
            "tkr_raw.clock": 1,
            "tkr_mono.mult": 5,
            "tkr_mono.base": 1000 * SECOND,
            "offs_real": BOOT,
            "ntp_tick": 4_000_000 << 32,
        }.items():
            self.poke("timekeeper", keeper + 8, path, value)
        self._mount()
        group = self.new("group_info", ngroups=0)
        self.root_cred = self.new("cred", group_info=group, user_ns=self.users)
        self.proxy = self.new(
            "nsproxy",
            uts_ns=self.new("uts_namespace", ns__inum=4026531838),
            mnt_ns=self.new("mnt_namespace", ns__inum=4026531841),
            net_ns=self.new("net", ns__inum=4026531840),
        )
        root = self.new("cgroup_root", hierarchy_id=0)
        kernfs = self.new("kernfs_node", name=self.text(b""))
        slice_ = self.new("kernfs_node", name=self.text(b"lab.slice"), parent=kernfs)
        link = self.new("cgrp_cset_link", cgrp=self.new("cgroup", kn=slice_, root=root))
        self.cgroups = self.new("css_set")
        self.link(
            self.at("css_set", self.cgroups, "cgrp_links"), [self.at("cgrp_cset_link", link, "cgrp_link")]
        )
        self.relink()

    def _mount(self) -> None:
        self.root = self.new("dentry", d_hash__pprev=0)
        self.poke("dentry", self.root, "d_parent", self.root)
        self.mount = self.new("mount", mnt__mnt_root=self.root)
        self.poke("mount", self.mount, "mnt_parent", self.mount)

    def dentry(self, *names: bytes, hashed: bool = True) -> int:
        """A dentry at that path from the root."""
        parent = self.root
        for name in names:
            parent = self.new(
                "dentry",
                d_parent=parent,
                d_name__len=len(name),
                d_name__name=self.text(name),
                d_hash__pprev=int(hashed),
            )
        return parent

    def vfsmount(self) -> int:
        return self.at("mount", self.mount, "mnt")

    def pid(self, number: int, *, alive: bool = True) -> int:
        """The `struct pid` of a number; `alive`: a process has it."""
        if number not in self.ids:
            self.ids[number] = self.new("pid")
            self.poke("pid", self.ids[number], "numbers[0].nr", number)
            self.poke("pid", self.ids[number], "numbers[0].ns", self.namespace)
        self.poke("pid", self.ids[number], "tasks[0].first", int(alive))
        return self.ids[number]

    def process(
        self,
        pid: int,
        comm: str = "sh",
        *,
        args: bytes | None = b"sh\0-c\0true\0",
        parent: int | None = None,
        pgid: int | None = None,
        sid: int | None = None,
        kernel_thread: bool = False,
        **values: Any,
    ) -> int:
        """A process of one thread; further members of its task_struct as keywords. Returns its address."""
        own = self.pid(pid)
        for number in (pgid or pid, sid or pid):
            if number not in self.ids:
                self.pid(number, alive=False)
        signal = self.new(
            "signal_struct",
            nr_threads=1,
            pids=(own, own, self.ids[pgid or pid], self.ids[sid or pid]),
            sum_sched_runtime=0,
        )
        mm = 0
        if not kernel_thread:
            start = USER + pid * 0x10000
            counters = self._counters()
            mm = self.new("mm_struct", total_vm=100, arg_start=start, arg_end=start + len(args or b""), pgd=1)
            for index, count in enumerate((3, 4, 0, 5)):
                self.poke("mm_struct", mm, f"rss_stat[{index}].count", count)
                self.poke("mm_struct", mm, f"rss_stat[{index}].counters", counters + 4 * index)
            file = self.new(
                "file", f_path__mnt=self.vfsmount(), f_path__dentry=self.dentry(b"bin", comm.encode())
            )
            self.poke("mm_struct", mm, "exe_file", file)
            self.poke("mm_struct", mm, "mm_users.counter", 1)
            if args is not None:
                self.user[start >> 12] = args.ljust(4096, b"\0")
        fs = self.new("fs_struct", root__mnt=self.vfsmount(), root__dentry=self.root)
        self.poke("fs_struct", fs, "pwd.mnt", self.vfsmount())
        self.poke("fs_struct", fs, "pwd.dentry", self.dentry(b"tmp"))
        task = self.new(
            "task_struct",
            pid=pid,
            tgid=pid,
            comm=comm,
            flags=0x200000 if kernel_thread else 0,
            __state=1,
            prio=120,
            static_prio=120,
            signal=signal,
            mm=mm,
            real_parent=parent or self.symbols["init_task"],
            thread_pid=own,
            real_cred=self.root_cred,
            start_boottime=400 * SECOND,
            fs=fs,
            nsproxy=self.proxy,
            cgroups=self.cgroups,
        )
        for key, value in values.items():
            self.poke("task_struct", task, dotted(key), value)
        self.link(
            self.at("signal_struct", signal, "thread_head"), [self.at("task_struct", task, "thread_node")]
        )
        self.tasks.append(task)
        self.relink()
        return task

    def _counters(self) -> int:
        """A per-CPU place for the counters of an mm: the first CPU's; the second's is 0x1000 further on."""
        address = self.allocate(16)
        self.allocate(0x1000)
        return address

    def relink(self) -> None:
        """Put the tasks into the task list, in order."""
        self.link(self.node(self.symbols["init_task"]), [self.node(task) for task in self.tasks])

    def node(self, task: int) -> int:
        """Where a task's place in the list of tasks is."""
        return self.at("task_struct", task, "tasks")
