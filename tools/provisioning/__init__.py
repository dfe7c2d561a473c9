"""From a bundle, a fleet's roster and a board's description to something that can be installed."""
