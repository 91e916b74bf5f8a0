"""The registry over HTTP: its own API, two dialects of others, events and metrics."""
