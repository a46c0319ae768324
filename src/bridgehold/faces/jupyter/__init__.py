"""A Jupyter kernel whose cells run in a sandbox: a client of the host, which never runs one itself.

Messages are jupyter_client's, the loop is its own: what ipykernel brings besides (a shell, a debugger,
threads) is there to run cells in its own process, where none may run here.
"""
