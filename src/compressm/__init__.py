"""Shrink state space models while they train."""
