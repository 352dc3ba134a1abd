"""Codecs: bytes ↔ pixels. One file each, and one line in `limla.registry.CODECS`."""
