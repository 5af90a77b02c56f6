"""The method: training, its strategies, and what surrounds a run."""
