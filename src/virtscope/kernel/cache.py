"""What is learned of a kernel, kept between runs."""

from __future__ import annotations


class KernelCache:
    """A folder of learned layouts and symbols."""
