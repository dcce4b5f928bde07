"""The training loop and its checkpoints; knows no layer and no task."""
