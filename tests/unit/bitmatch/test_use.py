"""How patterns behave in a program: when they are compiled, from where, and what importing them costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import threading

import virtscope
from virtscope.bitmatch import Record, pattern
from virtscope.bitmatch.record import PatternType

PACKAGES = ("block", "volume", "fs", "memory", "bitmatch")


def test_every_pattern_of_the_project_compiles() -> None:
    found = 0
    for package in PACKAGES:
        for path in virtscope.__path__:
            for module in pkgutil.walk_packages([f"{path}/{package}"], f"virtscope.{package}."):
                for value in vars(importlib.import_module(module.name)).values():
                    if isinstance(value, PatternType) and hasattr(value, "__spec__"):
                        assert issubclass(value, Record)
                        value.compile()
                        found += 1
    assert found > 10


def test_an_import_compiles_nothing() -> None:
    code = (
        "import sys, virtscope.bitmatch as b\n"
        "P = b.pattern('p', 'this is no pattern')\n"
        "class Q(b.Record): layout = 'nor is this'\n"
        "print([name for name in sys.modules if name.startswith('virtscope.bitmatch.')])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "compiler" not in shown
    assert "text" not in shown
    assert "virtscope.bitmatch.record" in shown


def test_threads_may_use_a_pattern_first_at_the_same_time() -> None:
    node = pattern("node", "n : 8; left : Self if n else 8; right : Self if n else 8", names={})
    tree = pattern("tree", "root : Node; others : Node[2]", names={"Node": node})
    data = bytes([1, 0, 7, 7, 0, 8, 8] + [0, 9, 9] * 2)
    results: list[object] = []
    gate = threading.Barrier(8)

    def use() -> None:
        gate.wait()
        results.append(tree.parse(data).root.left.left)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 8
