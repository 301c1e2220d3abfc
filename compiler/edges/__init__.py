"""What the edges of a trained network weigh: figures, pictures, one page."""
