"""virtscope: look inside, confine and trace virtual machines from the outside.

`open` gives one `Guest`, `running` all that run on this host; `virtscope.guest` says what they can be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virtscope.guest import Guest, open, running

__version__ = "0.1.0"

__all__ = ["Guest", "__version__", "open", "running"]


def __getattr__(name: str) -> Any:
    # The commands start in a fraction of a second: a name costs its import only when it is used.
    if name in ("Guest", "open", "running"):
        from virtscope import guest

        return getattr(guest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
