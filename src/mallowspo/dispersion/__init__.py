"""From reference scores, votes or rankings to an index per prompt, and from the index to a weight."""
