"""Starting guests and speaking with them: cold, forked, parked; pipes, calls, logs."""
