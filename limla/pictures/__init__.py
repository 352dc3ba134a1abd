"""Pictures as strangers have them → upright 8-bit sRGB pixels: one policy for each kind (docs/packing.md)."""
