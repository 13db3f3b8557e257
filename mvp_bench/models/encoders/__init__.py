"""The registered encoders. A module of this package that calls ``ENCODERS.register`` adds its presets.

Importing the package costs no torch: specifications are plain data, and networks are built on request.
"""
