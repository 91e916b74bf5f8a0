"""The roll of living agents on a NATS bus."""
