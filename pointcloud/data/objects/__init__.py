"""Clouds of single objects: folders, the procedural set, views and batches."""
