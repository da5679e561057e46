"""The artifact folder: names, reading and writing of its files."""
