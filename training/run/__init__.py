"""The run: its folder, its checkpoints, its environment."""
