"""Attention statistics, exact, beside the kernel that computes the output."""
