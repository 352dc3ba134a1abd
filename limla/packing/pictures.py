"""The policies for odd pictures, by their older name."""

from limla.pictures.policies import PROFILE_NOTE, Picture, read_picture

__all__ = ["PROFILE_NOTE", "Picture", "read_picture"]
