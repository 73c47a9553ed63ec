"""Exporters: one file each."""
