"""Horizontal training: all parties have the same columns, each its own rows and labels."""
