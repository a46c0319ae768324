"""Artifacts of tenants, and files fetched from hubs."""
