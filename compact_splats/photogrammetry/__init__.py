"""From photos without poses to a scene in COLMAP's layout, by pycolmap."""
