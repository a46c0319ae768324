"""The launcher's process: its requests, its one loop, and each worker from its beginning to its end."""
