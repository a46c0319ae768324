"""Sessions: opened, found, watched, ended."""
