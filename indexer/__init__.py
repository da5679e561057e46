"""Offline: artifacts, reasoning, training, publishing and the `p4r` command."""
