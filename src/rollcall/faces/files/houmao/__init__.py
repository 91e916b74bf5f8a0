"""Houmao's shared registry directory: read, written, and kept in step with the roll."""
