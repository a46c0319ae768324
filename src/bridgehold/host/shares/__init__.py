"""What is shared and counted by tenant: budgets, rates, room, metrics, refusals."""
