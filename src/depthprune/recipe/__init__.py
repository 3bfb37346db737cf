"""The whole configuration of a run, and which methods go together."""
