"""Taking files out of a guest: as files of the host, or as a tar stream."""
