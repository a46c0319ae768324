"""Figures of this machine: how fast sessions start, and how much memory they take."""
