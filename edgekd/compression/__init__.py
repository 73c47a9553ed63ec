"""Compression: variants made, judged and chosen; other forms of a graph; what int8 harms."""
