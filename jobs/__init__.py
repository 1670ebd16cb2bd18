"""The verbs of the `metasr` command, one module each."""
