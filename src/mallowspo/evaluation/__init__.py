"""How good a policy is: agreement, reward accuracy, divergence from the reference."""
