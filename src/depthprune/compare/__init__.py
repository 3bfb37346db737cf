"""A grid of runs on the same model and data: what can be shared is shared, one table, one report."""

from depthprune.compare.grid import Cell, Grid, cells_of, read_grid
from depthprune.compare.runs import compare

__all__ = ["Cell", "Grid", "cells_of", "compare", "read_grid"]
