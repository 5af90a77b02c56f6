"""The scene that make demo trains on: ray-traced, exact, of any size."""
