"""Training: pure steps, resumable state and the loop, written once for a laptop and for a cluster."""
