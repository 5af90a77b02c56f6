"""What all other packages may use: errors, files, pictures, losses, and the run folder. Imports none of them."""
