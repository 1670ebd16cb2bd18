"""A local page that shows a volume, and zooms into it at any real scale as the hand moves. The home of FastAPI."""
