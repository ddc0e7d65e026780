"""What all floors state numbers with: intervals, AUROC, likeness of strings."""
