"""Rank candidates by personas (Eq. 10) and explain the ranking."""
