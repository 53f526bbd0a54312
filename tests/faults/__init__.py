"""Faults in real processes on loopback: what breaks is flagged, counted and told, and nothing else is disturbed."""
