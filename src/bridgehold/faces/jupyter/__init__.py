"""A Jupyter kernel whose cells run in a sandbox: a client of the host, which never runs one itself."""
