"""A model served to a team by Ray Serve: volumes in, volumes out, always by the champion of now."""
