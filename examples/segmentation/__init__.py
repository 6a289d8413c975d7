"""Semantic segmentation of road scenes: CamVid."""
