"""Training: a loaded model learns from images with answers."""
