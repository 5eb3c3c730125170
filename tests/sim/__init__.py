"""Discrete-event simulations of the production cores: seeded, on virtual time, replayable."""
