"""Whole slides: which files are slides, how they become patches, and the maps that are made of the scores."""
