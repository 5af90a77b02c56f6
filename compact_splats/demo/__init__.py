"""The ray-traced scene of ``make demo``."""
