"""A run: its stages, the folder that they write, and the order that they run in."""
