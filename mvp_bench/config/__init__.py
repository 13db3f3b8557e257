"""Every number a user can change: groups of values, one dataclass per verb, and the profiles that fill them."""
