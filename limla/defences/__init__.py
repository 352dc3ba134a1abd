"""Compression as a defence: what it does to images, and what an attacker who knows of it differentiates."""

from limla.defences.codec import CodecDefence, Defended
from limla.defences.views import attackers_view

__all__ = ["CodecDefence", "Defended", "attackers_view"]
