"""`python -m analyses.cli`, which `torchrun -m` needs."""

from analyses.cli import main

main()
