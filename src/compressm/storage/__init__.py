"""What lies on disks and in memory bit for bit: files, trees of state, checksums."""
