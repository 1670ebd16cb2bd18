"""Two runs, compared bit for bit."""
