"""`mechguard`, `python -m mechguard` and `torchrun -m mechguard`: the command line."""


def main() -> None:
    """Run the command line."""
    from analyses.cli import main as run

    run()


if __name__ == "__main__":
    main()
