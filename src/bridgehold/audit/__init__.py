"""What happened, and can it be trusted? Events, their chain, the journal that writes it, and `verify`."""
