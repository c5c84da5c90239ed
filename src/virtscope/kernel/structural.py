"""What can be known without type information or symbols: by what structures hold and how they hang together.

`task_shape` finds the idle task by its name, "swapper/0", and infers of `struct task_struct`

- `tasks`: the list that leads from there through tasks with printable names, "kthreadd" among them, and back;
- `pid`: the number that is 0 in the idle task, 1 in the first of the list, 2 in kthreadd, and another in
  each; `tgid`: the equal number behind it (only thread group leaders are on the list);
- `real_parent`: the pointer that is the idle task in the first two, and kthreadd in kernel threads.

`find_by_content` finds a few variables of kernels whose symbol table does not have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import CorruptData, KernelError, NotMapped
from virtscope.kernel.layouts import Member

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

_IDLE_NAME = b"swapper/0".ljust(16, b"\0")
_COMM_SIZE = 16
_MAX_TASK = 16384
_MAX_NAMES = 16
_NODES = 64
_KERNEL_TASKS = 8


class TaskShape(NamedTuple):
    """What was inferred of tasks.

    Attributes:
        init_task: the address of the idle task.
        size: bytes of `task_struct` up to the last known member.
        members: the members that are known.
    """

    init_task: int
    size: int
    members: dict[str, Member]


class StructuralLayouts:
    """A `LayoutSource` for a kernel without BTF: it knows a few members of `task_struct`, and `list_head`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def struct_size(self, name: str) -> int | None:
        """See `LayoutSource`."""
        if name == "task_struct":
            shape = self._kernel.task_shape()
            return shape.size if shape is not None else None
        return 16 if name == "list_head" else None

    def member(self, name: str, path: str) -> Member | None:
        """See `LayoutSource`."""
        if name == "list_head":
            places = {"next": 0, "prev": 8}
            return Member(places[path], 8, "p", None, "list_head") if path in places else None
        shape = self._kernel.task_shape() if name == "task_struct" else None
        return shape.members.get(path) if shape is not None else None

    def enum(self, name: str) -> dict[str, int] | None:  # noqa: ARG002
        """See `LayoutSource`: none is known."""
        return None

    def enumerator(self, name: str) -> int | None:  # noqa: ARG002
        """See `LayoutSource`: none is known."""
        return None


def find_by_content(kernel: Kernel, name: str) -> int | None:
    """The address of the variable `name`, for the few that can be told by content; None otherwise."""
    finder = _FINDERS.get(name)
    if finder is None:
        return None
    try:
        return finder(kernel)
    except KernelError:
        return None


def task_shape(kernel: Kernel, init_task: int | None) -> TaskShape | None:
    """What tasks look like, by their content; None when no list of tasks is found.

    Args:
        kernel: the kernel.
        init_task: the address of the idle task, when a symbol says it.
    """
    for comm in _idle_names(kernel, init_task):
        for head, nodes in _task_lists(kernel, comm):
            shape = _infer(kernel, comm, head, nodes, init_task)
            if shape is not None:
                return shape
    return None


def _idle_names(kernel: Kernel, init_task: int | None) -> Iterator[int]:
    """Addresses of the name of the idle task: in it, or anywhere in the kernel image."""
    if init_task is not None:
        data = kernel.read(init_task, _MAX_TASK)
        at = data.find(b"swapper")
        if at >= 0:
            yield init_task + at
        return
    image = kernel.image
    for count, offset in enumerate(image.find(_IDLE_NAME, image.rodata)):
        if count >= _MAX_NAMES:
            return
        yield image.start + offset


def _task_lists(kernel: Kernel, comm: int) -> Iterator[tuple[int, list[int]]]:
    """List heads near `comm` whose nodes are in tasks: (head, addresses of the first nodes)."""
    low = max(kernel.image.start, comm - _MAX_TASK)
    words = memoryview(kernel.read(low, comm - low & ~7)).cast("Q")
    for index in range(len(words) - 2, -1, -1):
        first, last = words[index], words[index + 1]
        head = low + 8 * index
        if not (_is_pointer(first) and _is_pointer(last)) or first == head:
            continue
        nodes = _nodes(kernel, head, comm - head)
        if nodes:
            yield head, nodes


def _nodes(kernel: Kernel, head: int, distance: int) -> list[int]:
    """The first nodes of the list at `head`, if each has a printable name `distance` behind it."""
    nodes: list[int] = []
    names: set[bytes] = set()
    node, before = kernel.read_pointer(head), head
    try:
        while node != head and len(nodes) < _NODES:
            after, back = memoryview(kernel.read(node, 16)).cast("Q")
            name = kernel.read(node + distance, _COMM_SIZE).partition(b"\0")[0]
            # The first tasks are the kernel's own; a user's program can have any name.
            printable = len(nodes) >= _KERNEL_TASKS or (name and all(32 <= byte < 127 for byte in name))
            if back != before or not printable or node in nodes:
                return []
            nodes.append(node)
            names.add(name)
            node, before = after, node
    except NotMapped:
        return []
    return nodes if b"kthreadd" in names else []


def _infer(kernel: Kernel, comm: int, head: int, nodes: list[int], init_task: int | None) -> TaskShape | None:
    """The members between `tasks` and `comm`, of which tasks the list at `head` links."""
    distance = comm - head
    tasks = [kernel.read(node, distance + _COMM_SIZE) for node in (head, *nodes)]
    names = [task[distance:].partition(b"\0")[0] for task in tasks]
    kthreadd = names.index(b"kthreadd")
    pid = _pid_place([memoryview(task)[: distance & ~3].cast("i") for task in tasks], kthreadd)
    if pid is None:
        return None
    parent, before = _parent_place([head, *nodes], tasks, pid + 8, distance, kthreadd)
    if init_task is not None:
        before = head - init_task
    list_head = {
        "tasks": Member(before, 16, "S", None, "list_head"),
        "tasks.next": Member(before, 8, "p", None, "list_head"),
        "tasks.prev": Member(before + 8, 8, "p", None, "list_head"),
    }
    members = {
        **list_head,
        "pid": Member(before + pid, 4, "s"),
        "tgid": Member(before + pid + 4, 4, "s"),
        "comm": Member(before + distance, _COMM_SIZE, "c", _COMM_SIZE),
    }
    if parent is not None:
        members["real_parent"] = Member(before + parent, 8, "p", None, "task_struct")
    return TaskShape(head - before, before + distance + _COMM_SIZE, members)


def _pid_place(tasks: list[memoryview], kthreadd: int) -> int | None:
    """Where `pid` is, behind `tasks`, with `tgid` behind it."""
    for index in range(4, len(tasks[0]) - 1):
        if tasks[0][index] or tasks[1][index] != 1 or tasks[kthreadd][index] != 2:
            continue
        numbers = [task[index] for task in tasks]
        if (
            len(set(numbers)) == len(numbers)
            and min(numbers) >= 0
            and all(task[index + 1] == number for task, number in zip(tasks, numbers, strict=True))
        ):
            return 4 * index
    return None


def _parent_place(
    nodes: list[int], tasks: list[bytes], start: int, end: int, kthreadd: int
) -> tuple[int | None, int]:
    """Where `real_parent` is behind `tasks`, and where `tasks` is in `task_struct`; else (None, 0)."""
    for at in range(-(-start // 8) * 8, end - 7, 8):
        parents = [int.from_bytes(task[at : at + 8], "little") for task in tasks]
        before = nodes[0] - parents[1]
        if (
            0 <= before < _MAX_TASK
            and parents[0] == parents[1] == parents[kthreadd]
            and nodes[kthreadd] - before in parents
        ):
            return at, before
    return None, 0


def _is_pointer(value: int) -> bool:
    return value >= 0xFF00_0000_0000_0000 and not value & 7 and value < 0xFFFF_FFFF_FFFF_F000


def _init_task(kernel: Kernel) -> int | None:
    if not kernel.has_types:
        shape = kernel.task_shape()
        return shape.init_task if shape is not None else None
    layout = kernel.struct("task_struct")
    for comm in _idle_names(kernel, None):
        address = comm - layout.offset("comm")
        try:
            task = kernel.record(layout, address)
            first = task.pointee("tasks.next")
            if task["pid"] == 0 and first.address != task.at("tasks") and first["prev"] == task.at("tasks"):
                return address
        except (NotMapped, CorruptData):
            continue
    return None


def _namespace(member: str) -> Callable[[Kernel], int | None]:
    """Finds one of the first namespaces: those of the idle task."""

    def find(kernel: Kernel) -> int | None:
        return int(kernel.variable("init_task").pointee("nsproxy")[member]) or None

    return find


def _net_namespace_list(kernel: Kernel) -> int | None:
    """The head is before the first network namespace, the one that is never removed."""
    return int(kernel.variable("init_net")["list.prev"])


_FINDERS: dict[str, Callable[[Kernel], int | None]] = {
    "init_task": _init_task,
    "init_uts_ns": _namespace("uts_ns"),
    "init_net": _namespace("net_ns"),
    "init_pid_ns": _namespace("pid_ns_for_children"),
    "init_ipc_ns": _namespace("ipc_ns"),
    "init_cgroup_ns": _namespace("cgroup_ns"),
    "net_namespace_list": _net_namespace_list,
}
