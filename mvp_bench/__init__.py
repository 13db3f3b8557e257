"""mvp_bench: does multi-modal pre-training help on brain MRI, and which method should one use?"""

__version__ = "0.1.0"
