"""The agent's side: register, beat, discover, watch, mirror."""
