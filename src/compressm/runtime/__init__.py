"""What surrounds a computation and must not change it: settings, randomness, devices, signals."""
