"""Where theory and simulation meet: verdict and histogram."""
