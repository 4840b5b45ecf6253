"""Programs that show LiteFS at work on this machine: `make demo`, `make demo-cluster`. No part of the package."""
