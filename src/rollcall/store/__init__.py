"""The worker's disk."""
