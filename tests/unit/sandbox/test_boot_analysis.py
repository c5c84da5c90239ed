"""From logs and spans to trees, drawings and comparisons."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest

from virtscope.errors import FormatError
from virtscope.sandbox.boot import activity, compare, console, export, measure, page, svg, text
from virtscope.sandbox.boot.activity import OVERHEAD, Span

LOG = """\
[    0.000000] Linux version 6.1.0 (gcc)
[    0.000000] Command line: quiet
[    0.100000] Console: colour dummy device
[    0.300000] smpboot: CPU0: Intel
[    0.310000] calling  early+0x0/0x10 @ 1
[    0.350000] initcall early+0x0/0x10 returned 0 after 40000 usecs
[    0.351000] initcall quick+0x0/0x10 returned 0 after 10 usecs
[    0.400000] initcall slow_init+0x0/0x10 [mod] returned 0 after 20000 usecs
[    0.500000] Freeing unused kernel image (initmem) memory: 100K
[    0.520000] Run /init as init process
[    0.900000] EXT4-fs (vda1): mounted filesystem
"""


def tree(scale: float = 1.0) -> Span:
    return Span(
        "boot",
        0,
        1.0 * scale,
        (
            Span("a", 0, 0.4 * scale),
            Span("b", 0.6 * scale, 1.0 * scale, (Span("c", 0.6 * scale, 0.9 * scale),)),
        ),
    )


def test_kernel_log_becomes_phases_and_initcalls() -> None:
    whole = console.log_span(LOG.splitlines())
    assert whole is not None
    kernel, user = whole.children
    assert (kernel.start, kernel.end, user.end) == (0.0, 0.52, 0.9)
    names = [phase.name for phase in kernel.children]
    assert names[0] == "setup_arch and memory"
    assert names[-1] == "first process"
    calls = {call.name: round(call.duration, 3) for phase in kernel.children for call in phase.children}
    assert calls == {"early": 0.04, "slow_init [mod]": 0.02}
    assert math.isclose(sum(phase.duration for phase in kernel.children), 0.52, abs_tol=1e-9)


def test_log_without_time_stamps_is_no_boot() -> None:
    assert console.log_span(["hello", "world"]) is None


def test_what_no_child_explains_is_shown() -> None:
    root = activity.merge([tree(), tree()])
    assert [child.name for child in root.children] == ["a", OVERHEAD, "b"]
    assert math.isclose(root.children[1].mean, 0.2)
    assert math.isclose(sum(child.share for child in root.children), 1.0)


def test_mean_and_deviation_over_passes() -> None:
    root = activity.merge([tree(1.0), tree(2.0), tree(3.0)])
    assert (root.mean, root.deviation, root.passes) == (2.0, 1.0, 3)


def test_span_of_some_passes_only() -> None:
    with_more = Span("boot", 0, 1.0, (Span("a", 0, 0.4), Span("rare", 0.4, 0.5)))
    root = activity.merge([tree(), with_more])
    rare = next(child for child in root.children if child.name == "rare")
    assert (rare.passes, rare.deviation) == (1, None)


def test_result_survives_saving() -> None:
    root = activity.merge([tree(1.0), tree(1.5)])
    again = export.from_json(export.to_json(root, {}))
    assert export.as_dict(again) == export.as_dict(root)


@pytest.mark.parametrize(
    "text_", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema": "virt-boot-analysis/1", "rows": []}']
)
def test_foreign_results_are_refused(text_: str) -> None:
    with pytest.raises(FormatError):
        export.from_json(text_)


def test_trace_has_complete_events() -> None:
    events = json.loads(export.to_trace(activity.merge([tree()])))["traceEvents"]
    assert {event["ph"] for event in events} == {"X"}
    assert events[0]["dur"] == 1e6


def test_drawing_is_xml_and_names_are_escaped() -> None:
    root = activity.merge([Span("a<script>&", 0, 1, (Span("b", 0, 0.5),))])
    drawing = ET.fromstring(svg.draw(root))
    titles = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title and title.startswith("a<script>&") for title in titles)


def test_page_cannot_be_broken_out_of() -> None:
    name = "</script><script>alert(1)//"
    document = page.render(activity.merge([Span(name, 0, 1)]), {"title": "<b>", "cpu": "<i>"})
    assert document.count("<script>") == 1
    assert "<b>" not in document
    assert "<i>" not in document


def test_timeline_nests_arrows_in_their_parents() -> None:
    lines = list(text.timeline(activity.merge([tree()]), 80))
    assert lines[0].startswith("boot")
    whole, part = lines[0], next(line for line in lines if line.strip().startswith("c "))
    assert whole.index("<") <= part.index("<")
    assert whole.index(">") >= part.index(">")


def test_tree_says_share() -> None:
    assert any(line.rstrip().endswith("100.0%") for line in text.tree(activity.merge([tree()])))


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        # probabilities as scipy.stats.ttest_ind(..., equal_var=False) gives them
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], 0.3153),
        ([10.0, 10.1, 9.9], [12.0, 12.1, 11.9], 1.6e-5),
    ],
)
def test_welch(one: list[float], two: list[float], expected: float) -> None:
    probability = compare.welch(one, two)
    assert probability is not None
    assert math.isclose(probability, expected, rel_tol=0.05)


def test_comparison_finds_what_got_slower() -> None:
    before = activity.merge([tree(1.0), tree(1.01), tree(0.99)])
    after = activity.merge([tree(2.0), tree(2.01), tree(1.99)])
    rows = {row.path: row for row in compare.changes(before, after)}
    assert rows["boot"].significant
    assert math.isclose(rows["boot / b / c"].difference, 0.3, abs_tol=0.01)


def test_console_with_arrival_times() -> None:
    lines = [
        (0.1, "SeaBIOS (version 1)"),
        (0.5, "[    0.000000] Linux version 6"),
        (0.9, "[    0.400000] Run /init as init process"),
        (1.5, "host login:"),
    ]
    whole = measure.console_span(lines)
    assert [child.name for child in whole.children] == ["QEMU", "firmware", "kernel", "user space"]
    assert whole.end == 1.5
