"""The persona studio: pages for people, rendered on the server, without scripts."""
