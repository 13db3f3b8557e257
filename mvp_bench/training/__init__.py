"""What the three training loops share: checkpoints, seeds, and where arithmetic is done."""
