"""Encode artifacts, write them to an index, verify and publish it."""
