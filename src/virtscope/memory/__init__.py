"""Guest-physical memory: the interface (`physical`), live QEMU processes (`live`) and the file formats."""
