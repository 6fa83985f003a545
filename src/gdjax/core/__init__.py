"""The contract: the pair, its state, and how a rule for one array becomes an optimizer."""
