"""Checkpoints of other projects, one file per format: reading them into our run folders, and writing them.

``raw`` opens files without running code of theirs; each format says whether it knows a file and which tensor is
which; ``match`` compares the file with the encoder, tensor by tensor; ``importing``, ``exporting`` and ``verb`` serve
``mvp_weights``. :func:`mvp_bench.models.formats.importing.encoder_from_checkpoint` is the way in from Python.
"""
