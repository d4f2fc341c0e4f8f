"""What the first two examples share: the same orders, the same faults, the same count at the end."""
