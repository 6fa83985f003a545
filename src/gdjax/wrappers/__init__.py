"""Take an optimizer, give one."""
