"""Segments of a catalogue: its personas in clusters, with names and ids that stay."""
