"""Classification of three-dimensional shapes as occupancy grids: ModelNet."""
