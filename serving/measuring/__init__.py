"""What this machine does in half a minute: the figures of a plan, taken on the spot."""
