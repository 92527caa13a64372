"""Recipes on clouds of single objects."""
