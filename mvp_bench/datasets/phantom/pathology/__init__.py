"""What can be wrong with a head. Each module: a frozen config with the knobs, a plan drawn first, paint() afterwards."""
