"""What can a process touch, and how much? Launcher, starts, attestation, limits, environments, doctor."""
