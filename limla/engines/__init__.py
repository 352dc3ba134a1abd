"""Engines: an ordered map over shards. One file each, and one line in `limla.registry.ENGINES`."""
