"""Checkpoints in forms that other engines read and transformers does not."""
