"""What a policy is: directions, weights, gate, span and operator."""
