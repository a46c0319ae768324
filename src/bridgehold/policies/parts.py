"""What each tenant is sure of, of a thing that all share (pure)."""

from __future__ import annotations


def kept_for_others(held: dict[str, int], tenant: str, tenants: int, *, whole: int, need: int) -> int:
    """How much of `whole` is not `tenant`'s to take, in a start of `need` (pure)."""
    if tenants < 2:
        return 0
    part = max(whole // (2 * tenants), need)
    if held.get(tenant, 0) + need <= part:
        return 0
    others = [count for name, count in held.items() if name != tenant]
    absent = max(0, tenants - 1 - len(others))
    return min(whole // 2, part * absent + sum(max(0, part - count) for count in others))
