"""Quantization recipes: one file each. A profile lists, in order, the ones to try."""
