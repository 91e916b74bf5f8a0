"""The `mindx` dialect over HTTP."""
