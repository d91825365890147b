"""The `atlas` command: what a person types, and how it is shown. Nothing imports it."""
