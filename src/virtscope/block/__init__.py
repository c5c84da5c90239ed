"""Disk images as bytes: `source.BlockSource`, and the formats."""
