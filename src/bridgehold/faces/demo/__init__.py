"""The demo: what a poisoned package takes where keys are inside, and what it gets here."""
