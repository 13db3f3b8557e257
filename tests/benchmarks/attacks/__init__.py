"""An adversary for whole workspaces: single changes, and what the same commands make of them."""
