"""What all verbs share towards a person: flags, help, colour, completion, and JSON for scripts."""
