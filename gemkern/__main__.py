"""`python -m gemkern` is the command line."""

from gemkern.cli import main

if __name__ == "__main__":
    main()
