"""Makes the demo model: a small FastVLM trained in the paper's stages."""
