"""From a spec, a recipe and data to a run folder, and back."""
