"""What is used of eth-account, loaded so that it leaves the process as it was.

One of its parts raises the recursion limit of the whole process a hundredfold: then JSON that nests without end is no
error any more, but overruns the stack and ends the process.
"""

import sys

_LIMIT = sys.getrecursionlimit()

from eth_account import Account  # noqa: E402  the limit has to be read before
from eth_account.messages import encode_defunct  # noqa: E402

sys.setrecursionlimit(_LIMIT)

__all__ = ["Account", "encode_defunct"]
