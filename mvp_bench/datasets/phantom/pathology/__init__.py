"""What can be wrong with a head. Each module: frozen configs with the knobs, plan() drawn first, paint() afterwards."""
