"""What the operator says: config.toml, the environment, folders, and what a reload may change."""
