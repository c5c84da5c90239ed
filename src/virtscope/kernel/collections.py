"""The kernel's linked structures, walked from outside: lists, hash lists, trees, radix trees.

Every walk is bounded and remembers where it has been: what a guest's memory holds decides what is found,
Every walk is bounded and remembers where it has been: what a guest's memory holds decides what is found,
never how long it takes. A walk that meets a loop, a NULL or wild pointer raises `CorruptData`; on a running
guest that is most often a read torn by a change, which `Kernel.retried` tries again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, NotMapped
from virtscope.kernel.records import Record

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel

LIMIT = 1 << 22
"""The most elements any walk yields: the kernel's own limit on process ids (PID_MAX_LIMIT)."""


def list_of(kernel: Kernel, head: int, struct: str, member: str, *, limit: int = LIMIT) -> Iterator[Record]:
    """The structures on a `struct list_head` list, in order.

    Args:
        kernel: whose list.
        head: the address of the list's head; the head itself is not an element.
        struct: the structure the elements are.
        member: the path of the `list_head` (or of an RCU list) in it, "tasks" or "sibling".
        limit: elements after which the list is called corrupt.

    Raises:
        CorruptData: the list loops without passing its head, is longer than `limit` or leads to a wild
            pointer.
        UnknownLayout: no such structure or member.
    """
    layout = kernel.struct(struct)
    offset, forward = layout.offset(member), f"{member}.next"
    seen = {head}
    node = kernel.read_pointer(head)
    while node != head:
        if node in seen:
            raise CorruptData(f"the list of {struct}.{member} at {head:#x} loops at {node:#x}")
        if len(seen) > limit:
            raise CorruptData(f"the list of {struct}.{member} at {head:#x} has more than {limit} elements")
        seen.add(node)
        try:
            record = kernel.record(layout, node - offset)
        except NotMapped:
            raise CorruptData(f"the list of {struct}.{member} at {head:#x} leads to {node:#x}") from None
        yield record
        node = record[forward]


def hlist_of(kernel: Kernel, head: int, struct: str, member: str, *, limit: int = LIMIT) -> Iterator[Record]:
    """The structures on a `struct hlist_head` list (or hlist_nulls: an odd pointer ends it), in order.

    Args and errors are those of `list_of`.
    """
    layout = kernel.struct(struct)
    offset, forward = layout.offset(member), f"{member}.next"
    seen: set[int] = set()
    node = kernel.read_pointer(head)
    while node and not node & 1:
        if node in seen:
            raise CorruptData(f"the hash list of {struct}.{member} at {head:#x} loops at {node:#x}")
        if len(seen) >= limit:
            raise CorruptData(
                f"the hash list of {struct}.{member} at {head:#x} has more than {limit} elements"
            )
        seen.add(node)
        try:
            record = kernel.record(layout, node - offset)
        except NotMapped:
            raise CorruptData(f"the hash list of {struct}.{member} at {head:#x} leads to {node:#x}") from None
        yield record
        node = record[forward]


def rbtree_of(kernel: Kernel, root: int, struct: str, member: str, *, limit: int = LIMIT) -> Iterator[Record]:
    """The structures in a red-black tree, in order.

    Args:
        kernel: whose tree.
        root: the address of the `struct rb_root` (or rb_root_cached).
        struct: the structure the nodes are part of.
        member: the path of the `rb_node` in it.
        limit: nodes after which the tree is called corrupt.

    Raises:
        CorruptData: the tree loops, is larger than `limit` or leads to a wild pointer.
        UnknownLayout: no such structure or member.
    """
    layout = kernel.struct(struct)
    offset, left, right = layout.offset(member), f"{member}.rb_left", f"{member}.rb_right"
    seen: set[int] = set()
    pending: list[Record] = []
    node = kernel.read_pointer(root)
    while node or pending:
        while node:
            if node in seen:
                raise CorruptData(f"the tree of {struct}.{member} at {root:#x} loops at {node:#x}")
            if len(seen) >= limit:
                raise CorruptData(f"the tree of {struct}.{member} at {root:#x} has more than {limit} nodes")
            seen.add(node)
            try:
                record = kernel.record(layout, node - offset)
            except NotMapped:
                raise CorruptData(f"the tree of {struct}.{member} at {root:#x} leads to {node:#x}") from None
            pending.append(record)
            node = record[left]
        record = pending.pop()
        yield record
        node = record[right]


def xarray_of(kernel: Kernel, xarray: int, *, limit: int = LIMIT) -> Iterator[tuple[int, int]]:
    """The (index, entry) pairs of a `struct xarray` or `radix_tree_root`, also an IDR's `idr_rt`, in order.

    Entries are as stored: pointers to kernel structures, or tagged values (lowest bit set). Internal entries
    (retry, zero, sibling) are left out. Index is that of the tree: an IDR adds its `idr_base`.

    Raises:
        CorruptData: the tree loops, is deeper than its indices allow, or leads to a wild pointer.
        UnknownLayout: neither `xa_node` nor `radix_tree_node` is known.
    """
    root, node_name = (
        ("xarray", "xa_node") if kernel.has_struct("xa_node") else ("radix_tree_root", "radix_tree_node")
    )
    root_layout, layout = kernel.struct(root), kernel.struct(node_name)
    entry = kernel.read_pointer(xarray + root_layout.offset(root_layout.first("xa_head", "rnode")))
    tag = (
        2 if root == "xarray" else 1
    )  # how a pointer to a node is marked (XA: low bits 10; radix tree: bit 0)
    seen: set[int] = set()
    if not entry:
        return
    # (entry, index of its first element, shift allowed at most)
    pending = [(entry, 0, 64)]
    count = 0
    while pending:
        entry, base, above = pending.pop()
        if entry & 3 != tag:
            count += 1
            if count > limit:
                raise CorruptData(f"the tree at {xarray:#x} has more than {limit} entries")
            yield base, entry
            continue
        if tag == 2 and entry < 4096:
            continue  # an internal entry that is no node
        node = entry & ~3
        if node in seen:
            raise CorruptData(f"the tree at {xarray:#x} loops at {node:#x}")
        seen.add(node)
        if len(seen) > limit:
            raise CorruptData(f"the tree at {xarray:#x} has more than {limit} nodes")
        try:
            record = kernel.record(layout, node)
        except NotMapped:
            raise CorruptData(f"the tree at {xarray:#x} leads to {node:#x}") from None
        shift = record["shift"]
        if shift >= above:
            raise CorruptData(
                f"the tree at {xarray:#x} has a node at {node:#x} of level {shift} under level {above}"
            )
        for index, slot in reversed(tuple(enumerate(record["slots"]))):
            if slot:
                pending.append((slot, base + (index << shift), shift))


_MAPLE_DENSE, _MAPLE_LEAF_64, _MAPLE_RANGE_64, _MAPLE_ARANGE_64 = range(4)
"""enum maple_type, which is not in every kernel's BTF; lib/maple_tree.c depends on its order."""


def maple_of(kernel: Kernel, tree: int, *, limit: int = LIMIT) -> Iterator[tuple[int, int, int]]:
    """The (first index, last index, entry) ranges of a `struct maple_tree`, in order, without empty ones.

    Raises:
        CorruptData: the tree loops, is too deep, or leads to a wild pointer.
        UnknownLayout: this kernel has no maple trees.
    """
    entry = kernel.read_pointer(tree + kernel.struct("maple_tree").offset("ma_root"))
    layout = kernel.struct("maple_node")
    seen: set[int] = set()
    count = 0
    if not entry:
        return
    if entry & 3 != 2 or entry < 4096:  # no node: the tree holds one entry, for index 0
        yield 0, 0, entry
        return
    pending = [(entry, 0, (1 << 64) - 1)]
    while pending:
        entry, low, high = pending.pop()
        node, kind = entry & ~0xFF, entry >> 3 & 0xF
        if node in seen:
            raise CorruptData(f"the maple tree at {tree:#x} loops at {node:#x}")
        seen.add(node)
        if len(seen) > limit:
            raise CorruptData(f"the maple tree at {tree:#x} has more than {limit} nodes")
        try:
            record = kernel.record(layout, node)
        except NotMapped:
            raise CorruptData(f"the maple tree at {tree:#x} leads to {node:#x}") from None
        pivots: tuple[int, ...]
        if kind == _MAPLE_DENSE:
            slots = record["slot"]
            pivots = tuple(range(low, low + len(slots) - 1))
        elif kind in (_MAPLE_LEAF_64, _MAPLE_RANGE_64):
            pivots, slots = record["mr64.pivot"], record["mr64.slot"]
        elif kind == _MAPLE_ARANGE_64:
            pivots, slots = record["ma64.pivot"], record["ma64.slot"]
        else:
            raise CorruptData(f"the maple tree at {tree:#x} has a node at {node:#x} of unknown kind {kind}")
        inside: list[tuple[int, int, int]] = []
        first = low
        for index, slot in enumerate(slots):
            # A pivot of 0 behind the first ends the node early: its range runs to the node's end.
            last = pivots[index] if index < len(pivots) and (pivots[index] or not index) else high
            if index and index < len(pivots) and not pivots[index]:
                last = high
            if last < first or last > high:
                raise CorruptData(f"the maple tree at {tree:#x} has a node at {node:#x} whose ranges overlap")
            if slot:
                inside.append((slot, first, last))
            if last >= high:
                break
            first = last + 1
        if kind in (_MAPLE_DENSE, _MAPLE_LEAF_64):
            for slot, first, last in inside:
                count += 1
                if count > limit:
                    raise CorruptData(f"the maple tree at {tree:#x} has more than {limit} entries")
                if slot & 3 != 2 or slot >= 4096:
                    yield first, last, slot
        else:
            pending.extend(reversed(inside))
