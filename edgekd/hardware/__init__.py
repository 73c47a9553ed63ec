"""Target profiles: what a device is, what its runtime loads, and what latency may be expected of it."""
