"""Every file read to its end, and what was found."""
