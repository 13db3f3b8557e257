"""What a trained network is worth: its predictions on test cases, compared with the prepared references."""
