"""The dialect of the Vers VM registry, and of its successor."""
