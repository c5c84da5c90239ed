"""The names of levels and facilities of the kernel log, as dmesg(1) and syslog(3) have them."""

from __future__ import annotations

LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
"""By number."""

FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("res0", "res1", "res2", "res3", "local0", "local1", "local2", "local3", "local4", "local5", "local6"),
    "local7",
)
"""By number."""
