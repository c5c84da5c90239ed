"""What a guest's disks say of the guest: how full its filesystems are, and which of them it mounts where."""
