"""The result for other programs: JSON, and the trace format of Chrome's about:tracing and Perfetto."""

from __future__ import annotations

import json
from typing import Any

from virtscope.errors import FormatError
from virtscope.sandbox.boot.activity import Activity

SCHEMA = "virt-boot-analysis/1"
DEEPEST = 64


def as_dict(activity: Activity) -> dict[str, Any]:
    """One activity and all in it; times in seconds."""
    return {
        "name": activity.name,
        "start": round(activity.start, 6),
        "end": round(activity.end, 6),
        "mean": round(activity.mean, 6),
        "deviation": None if activity.deviation is None else round(activity.deviation, 6),
        "share": round(activity.share, 6),
        "passes": activity.passes,
        "samples": [round(sample, 6) for sample in activity.samples],
        "children": [as_dict(child) for child in activity.children],
    }


def to_json(root: Activity, about: dict[str, Any]) -> str:
    """The document `from_json` reads; `about` says what was measured, where."""
    return json.dumps({"schema": SCHEMA, "about": about, "rows": [as_dict(root)], "errors": []}, indent=1)


def from_json(text: str) -> Activity:
    """Read a result back.

    Raises:
        FormatError: it is not one.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise FormatError("boot analysis", f"the schema is {document['schema']!r}, not {SCHEMA!r}")
        return _activity(document["rows"][0], 0)
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise FormatError("boot analysis", f"not a result of virt-boot-analysis --json: {error!r}") from None


def _activity(row: dict[str, Any], depth: int) -> Activity:
    if depth > DEEPEST:
        raise FormatError("boot analysis", "nested too deeply")
    deviation = row["deviation"]
    return Activity(
        str(row["name"]),
        float(row["start"]),
        float(row["end"]),
        float(row["mean"]),
        None if deviation is None else float(deviation),
        float(row["share"]),
        int(row["passes"]),
        tuple(float(sample) for sample in row["samples"]),
        tuple(_activity(child, depth + 1) for child in row["children"]),
    )


def to_trace(root: Activity) -> str:
    """Complete events ("ph": "X") of the Trace Event Format, microseconds."""
    events = [
        {
            "name": activity.name,
            "ph": "X",
            "ts": round(activity.start * 1e6, 1),
            "dur": round((activity.end - activity.start) * 1e6, 1),
            "pid": 1,
            "tid": 1,
            "args": {"mean_ms": round(activity.mean * 1e3, 3), "share": round(activity.share, 4)},
        }
        for _, activity in root.walk()
    ]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=1)
