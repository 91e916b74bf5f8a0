"""NATS: the only place that knows nats-py, subjects and streams."""
