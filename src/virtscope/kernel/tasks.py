"""The list of tasks, walked while the guest changes it. `walk_tasks` is the entry point.

A process that exits leaves the list, and its memory may be a new process's a moment later: following it
then would silently skip every process between. So each step is checked both ways (the next task must
point back), and a step that does not hold is taken again from the last task that is still in the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, NotMapped
from virtscope.kernel.collections import LIMIT, list_of

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.layouts import StructLayout
    from virtscope.kernel.records import Record

_MAX_REPAIRS = 1000
"""How often a walk may step back on a running guest before the list is called corrupt."""


def walk_tasks(kernel: Kernel) -> Iterator[Record]:
    """The leaders of all thread groups but the idle task, in the order of their creation.

    Raises:
        CorruptData: the list loops, is cut, or points nowhere; what came before is yielded.
        UnknownLayout: the kernel's tasks are not known.
    """
    layout = kernel.struct("task_struct")
    offset = layout.offset("tasks")
    head = kernel.symbol("init_task") + offset
    walk = _Walk(kernel, layout, offset, head)
    found: set[tuple[int, int]] = set()
    node = kernel.read_pointer(head)
    while node != head:
        task = walk.step(node)
        if task is None:
            node = walk.resume()
            continue
        # After a step back the way leads over tasks that were yielded before; not so a new one in an old
        # one's place.
        if (node, task["pid"]) not in found:
            found.add((node, task["pid"]))
            yield task
        node = task["tasks.next"]


def threads_of(kernel: Kernel, signal: Record) -> Iterator[Record]:
    """The tasks of a thread group, its leader first.

    Raises:
        CorruptData: the list loops, is cut, or points nowhere.
    """
    return list_of(kernel, signal.at("thread_head"), "task_struct", "thread_node")


class _Walk:
    """Where a walk has been, and how it goes back when the ground has moved."""

    def __init__(self, kernel: Kernel, layout: StructLayout, offset: int, head: int) -> None:
        self._kernel = kernel
        self._layout = layout
        self._offset = offset
        self._head = head
        self._two_way = layout.has("tasks.prev")
        self._trail = [head]
        self._seen = {head}
        self._repairs = 0
        self._noted = False

    def step(self, node: int) -> Record | None:
        """The task at `node`; None when the list has changed so that the walk must resume elsewhere."""
        if node in self._seen:
            self._broken(f"the task list loops: it comes back to the task at {self._task(node):#x}")
            return None
        if len(self._seen) > LIMIT:
            raise CorruptData(f"the task list has more than {LIMIT} tasks, which Linux does not allow")
        try:
            task = self._kernel.record(self._layout, node - self._offset)
        except NotMapped:
            self._broken(
                f"the task list is cut: behind {len(self._trail) - 1} tasks it points to "
                f"{self._task(node):#x}, where nothing is mapped"
            )
            return None
        if self._two_way and task["tasks.prev"] != self._trail[-1]:
            if self._kernel.memory.is_live:
                self._broken("the task list kept changing while it was read")
                return None
            self._note(task)
        self._seen.add(node)
        self._trail.append(node)
        return task

    def resume(self) -> int:
        """Go back to the last task that is still in the list; returns the node after it."""
        self._kernel.refresh()
        while len(self._trail) > 1:
            node = self._trail[-1]
            try:
                if (
                    self._kernel.read_pointer(self._trail[-2]) == node
                    and self._kernel.read_pointer(node + 8) == self._trail[-2]
                ):
                    return self._kernel.read_pointer(node)
            except NotMapped:
                pass
            self._seen.remove(self._trail.pop())
        return self._kernel.read_pointer(self._head)

    def _broken(self, sentence: str) -> None:
        """Count a step that did not hold; raises CorruptData when no further one is worth a try."""
        self._repairs += 1
        if not self._kernel.memory.is_live or self._repairs > _MAX_REPAIRS:
            raise CorruptData(sentence)

    def _note(self, task: Record) -> None:
        if not self._noted:
            self._noted = True
            self._kernel.notes.append(
                f"the task list contradicts itself before process {task['pid']}: the dump was made while "
                "the guest ran, and processes may be missing"
            )

    def _task(self, node: int) -> int:
        return node - self._offset
