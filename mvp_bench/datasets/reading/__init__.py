"""The way from the files of a release to cases: what the converters share."""
