"""How much: rlimits, bounds of the launcher, the watchdog, shortages, accounts."""
