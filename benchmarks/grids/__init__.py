"""Jobs in blocks: what more workers bring, what blocks cost, how far the queue carries, what memory does."""
