"""Training: recipes, data, and an engine whose runs survive being killed."""
