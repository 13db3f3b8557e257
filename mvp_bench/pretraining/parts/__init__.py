"""What methods are built of, beside masks, errors and views: heads, losses, momentum copies, corruptions, pairs."""
