"""Augmentations: one file each. To add one, write a frozen dataclass with `tasks` and `__call__`."""
