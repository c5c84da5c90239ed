"""Peers that need a script to do the same job."""
