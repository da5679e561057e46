"""Backups of an index and its users: to a folder, from it, and between engines."""
