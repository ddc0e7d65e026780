"""What all analyses share: findings, their progress and resumption, prompts."""
