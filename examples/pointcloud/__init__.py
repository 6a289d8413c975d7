"""Classification of three-dimensional shapes as point clouds: ModelNet."""
