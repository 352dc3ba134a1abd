"""Tasks: what a model's output means. One file each."""
