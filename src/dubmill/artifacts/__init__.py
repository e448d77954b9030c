"""Sealed directories, the rows and files in them, and how clips are stored."""
