"""Pretraining recipes on images: schema, data and method of each."""
