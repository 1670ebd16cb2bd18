"""Using a trained generator: the bundle it travels in, and volumes at any scale."""
