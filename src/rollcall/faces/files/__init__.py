"""Files of other registries, read and written."""
