"""The contract of a result: what a cell is, what it leaves on disk, and how that is verified when it is read."""
