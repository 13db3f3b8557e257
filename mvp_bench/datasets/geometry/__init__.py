"""Volumes on their grids: read, compared, resampled, registered, written anew."""
