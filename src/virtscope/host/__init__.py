"""Where guests are found on this host: QEMU processes, libvirt, monitors."""
