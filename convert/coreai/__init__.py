"""Core AI: the encoder as an `.aimodel`, and Apple's runtime that checks it."""
