"""The whole way once: real digits with flipped labels, a real service, influences over HTTP."""
