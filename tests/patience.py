"""How long tests wait."""

PATIENCE_S = 900  # for what always comes, on however busy a machine; what takes longer hangs
