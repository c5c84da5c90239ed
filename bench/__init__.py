"""Measurements: each program against its peers in one run, printed as ratios. `make bench` runs them all."""
