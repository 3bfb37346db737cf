"""Speed and memory of a checkpoint, side by side with another, and its use as a draft."""
