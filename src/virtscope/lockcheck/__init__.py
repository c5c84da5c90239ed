"""Locking mistakes in C, found by reading it: rule sets as data, libclang as the front end.

:func:`virtscope.lockcheck.check.run` is the entry point.
"""
