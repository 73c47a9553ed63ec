"""Losses: one file each. To add one, write a frozen dataclass with `needs` and `__call__`."""
