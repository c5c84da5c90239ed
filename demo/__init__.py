"""The demonstration: a small real guest, looked at from outside."""
