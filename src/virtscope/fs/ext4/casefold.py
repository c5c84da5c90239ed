"""Names in directories where upper and lower case are the same: `folded`.

The kernel compares them by canonical decomposition and full case folding (fs/unicode); names that are no
UTF-8 are compared byte by byte.
"""

from __future__ import annotations

import unicodedata


def folded(name: bytes) -> bytes | str:
    """What two names have in common if they are the same name."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
