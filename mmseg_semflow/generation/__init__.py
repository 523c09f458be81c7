"""Labelled sets of pictures from masks, and what they are worth."""
