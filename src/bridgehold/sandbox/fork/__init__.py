"""The fork start: zygotes, the namespaces that forks join, and the forks themselves."""
