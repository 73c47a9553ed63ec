"""The store: stage results under the SHA-256 of what they depend on; seals, shards and upkeep."""
