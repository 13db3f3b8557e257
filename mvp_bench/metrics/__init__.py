"""What is measured on the test cases: one file per family of metrics, each filed in the registry."""
