"""The registered pre-training methods: one module (or package) each, found by being here."""
