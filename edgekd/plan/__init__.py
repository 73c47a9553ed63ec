"""From a user's words to a frozen plan. Whatever can be refused is refused here, before any training."""
