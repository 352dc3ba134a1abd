"""Attacks: a batch and a model → a changed batch. One file each, and one line in `limla.registry.ATTACKS`."""
