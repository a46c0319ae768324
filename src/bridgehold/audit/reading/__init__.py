"""Questions about an audit: a small typed language, a disposable index, and what both read."""
