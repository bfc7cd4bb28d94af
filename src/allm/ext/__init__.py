"""What stands behind extras: the local model and the command line; public API only."""
