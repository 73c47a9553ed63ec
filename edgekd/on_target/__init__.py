"""On target: variants asked on the target's own kernels, where this host has others."""
