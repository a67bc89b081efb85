"""The commands: each module has a click command and a `main` for its console script."""
