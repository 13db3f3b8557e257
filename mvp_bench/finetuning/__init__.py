"""Fine-tuning one encoder on one task: segmentation through nnU-Net's trainer, classification, and their inference."""
