"""Flattening: two neighbouring layers become one of the standard shape, fitted to what both did."""
