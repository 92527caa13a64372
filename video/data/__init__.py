"""Clips: readers, lists, sources, procedural video."""
