"""The routes of Houmao's passive server about its registry."""
