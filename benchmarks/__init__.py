"""Our training step, likelihood, start and serving beside the peers', in one run."""
