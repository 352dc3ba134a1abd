"""Loaders: shards → batches. One file each, and one line in `limla.registry.LOADERS`."""
