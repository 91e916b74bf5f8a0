"""Who somebody is: keys, signatures over messages, and what they prove afterwards."""
