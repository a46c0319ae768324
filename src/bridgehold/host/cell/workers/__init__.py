"""Starting guests and speaking with them: cold, forked, from the warm pool; pipes, calls, logs."""
