"""Used by all other subpackages: errors, files, signals, images, metrics and the machine. Imports none of them."""
