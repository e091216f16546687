"""Training: samples of images and answers to an adapter of a model."""
