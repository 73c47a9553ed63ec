"""Searches over quantization candidates: one file each."""
