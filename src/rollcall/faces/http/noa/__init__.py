"""The dialect of the NOA ARK OS agent registry, and of its small Rust variant."""
