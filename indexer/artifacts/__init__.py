"""The artifact folder: names, reading, writing."""
