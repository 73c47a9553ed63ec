"""Variants run and evaluated on the target's own kernels, where this host has others."""
