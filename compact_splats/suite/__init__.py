"""The suite: many scenes trained, rendered, measured and reported by one command."""
