"""The verbs: what a person, or `ray job submit`, runs."""
