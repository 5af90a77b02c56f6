"""From photos without poses to a scene in COLMAP's layout. Structure from motion itself is done by pycolmap."""
